"""Requests that are answered OK, of every method but `Drain`: what a fuzzer begins with.

As JSON of protobuf, for the collections that `COLLECTIONS` makes and the documents in them.
"""

import base64

import numpy as np

DIMENSIONS = 16
TEXTS = ["apple", "An apple a day.", "Apple sells phones.", "bank of the river"]


def vector(seed, dimensions=DIMENSIONS):
    values = np.random.default_rng(seed).normal(size=dimensions).astype("<f4")
    return {"data": base64.b64encode(values.tobytes()).decode(), "dimensions": dimensions}


def document(id, collection):
    made = {"id": id, "text": TEXTS[1], "metadata": {"lane": "x", "a": {"b": 1}}}
    dimensions = EXTERNAL.get(collection)
    return made | ({"vector": vector(int(id), dimensions)} if dimensions else {})


EXTERNAL = {"fuzz": DIMENSIONS, "words": 32}  # what words' vectors of conftest's model have
COLLECTIONS = [
    *({"name": name, "external": {"dimensions": n}} for name, n in EXTERNAL.items()),
    {"name": "texts"},
]

LANE = {"equal": {"field": "lane", "value": "x"}}
FILTER = {
    "all": {
        "filters": [
            LANE,
            {"negation": {"exists": {"field": "missing"}}},
            {"any": {"filters": [{"range": {"field": "a.b", "gte": 1, "lt": 7}}, LANE]}},
            {"oneOf": {"field": "lane", "values": ["x", "y"]}},
        ]
    }
}
WORD = {"word": {"word": "apple"}}
BULK = {"priority": "PRIORITY_BULK"}
EXAMPLES = [
    {"text": text, "target": {"word": {"word": word}}, "word": "apple", "sense": sense}
    for text, word, sense in [
        ("An apple a day.", "apple", "fruit"),
        ("She ate the apple.", "apple", "fruit"),
        ("Apple sells phones.", "Apple", "firm"),
        ("The price of Apple rose.", "Apple", "firm"),
    ]
]
UPSERT = {"collection": "texts", "documents": [document("4", "texts"), document("5", "texts")]}

# By service and method, without the package. A method whose messages are streamed takes them all.
SAMPLES = {
    "EncoderService.Embed": [
        {"inputs": TEXTS},
        {
            "inputs": TEXTS[:2],
            "options": {
                "pooling": "POOLING_CLS",
                "normalize": False,
                "prompt": "query: ",
                "encoding": "VECTOR_ENCODING_INT8",
                "truncation": "TRUNCATION_POLICY_WINDOWS",
            },
            "partialSuccess": True,
            **BULK,
        },
    ],
    "EncoderService.EmbedStream": [
        {"request": {"inputs": TEXTS[:2], "priority": "PRIORITY_BULK"}, "tag": "a"}
    ],
    "EncoderService.EmbedWords": [
        {
            "inputs": [
                {"text": TEXTS[1], "targets": [WORD]},
                {"text": TEXTS[3], "targets": [{"span": {"start": 0, "end": 4}}]},
            ],
            "layers": [1, 2],
            "subwordPooling": "SUBWORD_POOLING_FIRST",
        },
        {"inputs": [{"text": TEXTS[1], "targets": [WORD]}]},
    ],
    "EncoderService.EmbedTokens": [{"inputs": TEXTS[:2], "layers": [2], "normalize": True}],
    "EncoderService.Similarity": [
        {"left": TEXTS[:2], "right": TEXTS[2:], "mode": "SIMILARITY_MODE_PAIRS"},
        {"left": TEXTS[:1], "right": TEXTS, "mode": "SIMILARITY_MODE_MATRIX"},
    ],
    "EncoderService.Tokenize": [{"inputs": TEXTS, "specialTokens": False}],
    "EncoderService.Detokenize": [{"inputs": [{"ids": [101, 6207, 102]}]}],
    "CompareService.CompareEmbeddings": [
        {
            "word": "apple",
            "inputs": [
                {"text": "An apple a day.", "sense": "fruit"},
                {"text": "The apple fell.", "target": WORD, "sense": "fruit"},
                {"text": "An apple store.", "sense": "firm"},
            ],
            "layers": [1, 2],
        }
    ],
    "AttentionService.GetAttention": [
        {"text": TEXTS[1], "kind": "ATTENTION_KIND_RAW", "layers": [1], "heads": [0, 1]},
        {"text": TEXTS[1], "kind": "ATTENTION_KIND_ROLLOUT", "words": [WORD]},
        {"text": TEXTS[1], "kind": "ATTENTION_KIND_HEAD_MEAN", "edgesPerRowMax": 2, "rows": [1]},
    ],
    "LanguageModelService.FillMask": [
        {"inputs": ["An [MASK] a day.", "The [MASK] of the [MASK]."], "topK": 3},
        {"inputs": ["An ___ a day."], "mask": "___", "candidates": ["apple", "hour"]},
    ],
    "LanguageModelService.Substitute": [
        {"inputs": [{"text": TEXTS[1], "target": WORD}], "topK": 3},
        {
            "inputs": [{"text": TEXTS[3], "target": {"span": {"end": 4}}}],
            "candidates": ["side", "apple"],
        },
    ],
    "TranslationService.Translate": [
        {"inputs": ["the cat sees the dog"], "options": {"targetLanguage": "de"}},
        {
            "inputs": ["I am a student. the dog sees an apple", "der Hund sieht das Haus"],
            "options": {
                "targetLanguage": "fr",
                "beams": 3,
                "alternatives": 2,
                "lengthPenalty": 0.6,
                "alignment": True,
                "splitting": "SENTENCE_SPLITTING_SENTENCES",
            },
            "partialSuccess": True,
        },
    ],
    "TranslationService.TranslateStream": [
        {
            "request": {"inputs": ["the cat sees the dog"], "options": {"targetLanguage": "de"}},
            "tag": "a",
            "partial": True,
        }
    ],
    "TranslationService.ListLanguagePairs": [{}],
    "SenseService.FitSenses": [{"examples": EXAMPLES, "countedPriors": True}],
    "SenseService.ClassifySenses": [
        {"inputs": [{"text": "An apple pie."}, {"text": TEXTS[1], "target": WORD, "word": "apple"}]}
    ],  # and the inventory, which `complete` puts in
    "CollectionService.CreateCollection": [
        {"collection": {"name": "new", "embedding": {"pooling": "POOLING_CLS"}}}
    ],
    "CollectionService.GetCollection": [{"name": "texts"}],
    "CollectionService.ListCollections": [{"pageSize": 1}],
    "CollectionService.UpdateCollection": [{"name": "texts", "description": "for people"}],
    "CollectionService.DeleteCollection": [{"name": "new"}],
    "CollectionService.CreateSnapshot": [{"collection": "fuzz"}],
    "CollectionService.RestoreSnapshot": [{"snapshot": "", "collection": "restored"}],
    "CollectionService.CheckCollection": [{"name": "fuzz"}],
    "CollectionService.CompactCollection": [{"name": "fuzz"}],
    "DocumentService.UpsertDocuments": [
        UPSERT | {"requestId": "r3"},
        {"collection": "fuzz", "documents": [document("6", "fuzz")], "mode": "WRITE_MODE_UPSERT"},
        {
            "collection": "texts",
            "documents": [document("1", "texts")],
            "mode": "WRITE_MODE_UPDATE",
            **BULK,
        },
    ],
    "DocumentService.DeleteDocuments": [{"collection": "texts", "ids": ["3", "9"]}],
    "DocumentService.PurgeDocuments": [
        {"collection": "texts", "filter": FILTER, "dryRun": True},
        {"collection": "fuzz", "filter": {"oneOf": {"field": "a.b", "values": [7]}}},
    ],
    "DocumentService.GetDocument": [{"collection": "fuzz", "id": "1", "withVector": True}],
    "DocumentService.BatchGetDocuments": [
        {"collection": "texts", "ids": ["1", "9"], "withVectors": True, "allowMissing": True}
    ],
    "DocumentService.ListDocuments": [{"collection": "texts", "filter": FILTER, "pageSize": 2}],
    "DocumentService.CountDocuments": [{"collection": "texts", "filter": FILTER}],
    "DocumentService.WriteStream": [UPSERT | {"tag": "1"}],
    "SearchService.Search": [
        {
            "collection": "texts",
            "query": {"text": "apple"},
            "options": {
                "mode": "SEARCH_MODE_HYBRID",
                "filter": FILTER,
                "k": 3,
                "highlight": True,
                "explain": True,
            },
        },
        {
            "collection": "fuzz",
            "query": {"vector": {"vector": vector(7)}},
            "options": {"exact": True, "k": 2, "withVectors": True, "scoreMin": -1},
        },
        {"collection": "texts", "query": {"documentId": "1"}, "options": {"idsOnly": True}},
        {"collection": "words", "query": {"word": {"text": TEXTS[1], "target": WORD}}},
        {
            "collection": "texts",
            "query": {"text": "day NEAR apple"},
            "options": {"mode": "SEARCH_MODE_LEXICAL", "lexicalText": "apple"},
        },
    ],
    "SearchService.BatchSearch": [
        {
            "collection": "texts",
            "queries": [{"text": "apple"}, {"documentId": "2"}],
            "options": {"fusion": "FUSION_RECIPROCAL_RANK", "mode": "SEARCH_MODE_HYBRID"},
            "partialSuccess": True,
        },
        {"collection": "fuzz", "queries": [{"vector": {"vector": vector(8)}}], **BULK},
    ],
    "AdminService.GetServerInfo": [{}],
    "AdminService.GetStatistics": [{}],
}
