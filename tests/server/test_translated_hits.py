"""`translate_to` on Search, with a small model that knows a few sentences by heart."""

import grpc
import pytest

from polyseme.v1 import collection_pb2, document_pb2, search_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = {
    "de": "Die Katze sieht das Haus.",
    "en": "The dog sees the cat.",
    "fr": "Je suis étudiant.",
    "ru": "Привет мир, как дела сегодня?",
    "none": "12:30",
}


async def filled(stubs, name):
    collection = collection_pb2.Collection(name=name)
    await stubs.collections.CreateCollection(
        collection_pb2.CreateCollectionRequest(collection=collection)
    )
    documents = [document_pb2.Document(id=key, text=text) for key, text in TEXTS.items()]
    await stubs.documents.UpsertDocuments(
        document_pb2.UpsertDocumentsRequest(collection=name, documents=documents)
    )


def search(name, **options):
    return search_pb2.SearchRequest(
        collection=name,
        query=search_pb2.SearchQuery(text="a house"),
        options=search_pb2.SearchOptions(**options),
    )


async def test_hits_come_in_the_language_asked_for(serving, translating_directory):
    async with serving(model=translating_directory) as stubs:
        await filled(stubs, "mixed")
        reply = await stubs.search.Search(search("mixed", translate_to="en"))
        ids_alone = await stubs.search.Search(search("mixed", translate_to="en", ids_only=True))
        plain = await stubs.search.Search(search("mixed"))

    found = {
        hit.document.id: (hit.translation.text, hit.translation.source_language)
        for hit in reply.hits
    }
    assert found == {
        "de": ("The cat sees the house.", "de"),
        "en": ("The dog sees the cat.", "en"),
        "fr": ("I am a student.", "fr"),
        "ru": ("", ""),
        "none": ("12:30", "en"),
    }
    texts = {hit.document.id: hit.document.text for hit in reply.hits}
    assert texts == TEXTS
    assert all(
        not hit.document.text and (hit.translation.source_language or hit.document.id == "ru")
        for hit in ids_alone.hits
    )
    assert not any(hit.HasField("translation") for hit in plain.hits)


@pytest.mark.parametrize("tag", ["de-AT", "DE", "de_CH"])
async def test_a_language_may_be_named_as_for_translate(serving, translating_directory, tag):
    async with serving(model=translating_directory) as stubs:
        await filled(stubs, "tagged")
        reply = await stubs.search.Search(search("tagged", translate_to=tag))

    found = {hit.document.id: hit.translation for hit in reply.hits}
    assert found["en"].text == "Der Hund sieht die Katze."
    assert found["de"].text == TEXTS["de"]
    assert found["de"].source_language == "de"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"translate_to": "xx"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"translate_to": "en", "k": 101}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_translated_is_refused(serving, translating_directory, options, code):
    async with serving(model=translating_directory) as stubs:
        await filled(stubs, "refused")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.search.Search(search("refused", **options))
    assert refused.value.code() is code
