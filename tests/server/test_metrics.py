from server.batcher import BatchReport
from server.metrics import Metrics, resident_bytes

METHOD = "/polyseme.v1.EncoderService/Embed"


def test_calls_and_batches_are_on_the_page():
    metrics = Metrics()
    metrics.call_ended(METHOD, "OK", 0.01)
    metrics.call_ended(METHOD, "OK", 0.02)
    metrics.call_ended(METHOD, "CANCELLED", 0.01)
    metrics.batch(BatchReport(texts=4, tokens=30, padding_tokens=2, compute_s=0.5))
    metrics.sources.queue_texts = lambda: 7

    page = metrics.page().decode()

    assert f'polyseme_calls_total{{code="OK",method="{METHOD}"}} 2.0' in page
    assert "polyseme_tokens_total 30.0" in page
    assert "polyseme_padding_tokens_total 2.0" in page
    assert "polyseme_queue_texts 7.0" in page
    assert f'polyseme_call_seconds_bucket{{le="0.02",method="{METHOD}"}}' in page


def test_two_servers_in_one_process_count_apart():
    one, other = Metrics(), Metrics()
    one.batch(BatchReport(1, 1, 0, 0.1))

    assert (one.batches.texts, other.batches.texts) == (1, 0)


def test_memory_is_measured():
    assert resident_bytes() > 10_000_000
