from google.protobuf import descriptor_pool

from server.app import SERVICES
from server.auth import Scope
from server.scopes import NEEDED, scope_of


def methods():
    pool = descriptor_pool.Default()
    return {
        f"/{service}/{method.name}"
        for service in SERVICES
        for method in pool.FindServiceByName(service).methods
    }


def test_every_method_that_is_served_stands_in_the_table_and_no_other():
    assert set(NEEDED) == methods()


def test_a_method_that_was_forgotten_is_for_administrators():
    assert scope_of("/polyseme.v1.EncoderService/Newest") is Scope.ADMIN


def test_what_a_name_says_is_not_less_than_its_scope():
    asking = ("Get", "List", "Count", "BatchGet", "Search", "BatchSearch", "Embed", "Tokenize")
    changing = ("Create", "Update", "Delete", "Upsert", "Purge", "Write", "Restore", "Drain")
    for method, scope in NEEDED.items():
        name = method.rpartition("/")[2]
        if name.startswith(changing):
            assert scope is not Scope.READ, method
        if name.startswith(asking):
            assert scope is not Scope.WRITE, method
