"""The index's settings as the server's settings have them."""

from index.settings import StoreSettings
from server.settings import Settings


def store_settings(settings: Settings) -> StoreSettings:
    """Limits that a caller can meet are the server's; the rest are the index's own choices."""
    return StoreSettings(
        id_bytes_max=settings.id_bytes_max,
        text_bytes_max=settings.text_bytes_max,
        metadata_bytes_max=settings.metadata_bytes_max,
        batch_documents_max=settings.documents_max,
        # A search by a document asks for one more: the document finds itself.
        k_max=settings.k_max + 1,
        page_documents_max=settings.page_size_max,
        filter_depth_max=settings.filter_depth_max,
        filter_terms_max=settings.filter_terms_max,
        disk_free_bytes_min=settings.disk_free_bytes_min,
        batch_queries_max=settings.inputs_max,
        page_bytes_max=settings.message_bytes_max,
        # What is stored may be longer than what is sent of it: the message's own check is exact.
        answer_bytes_max=2 * settings.message_bytes_max,
    )
