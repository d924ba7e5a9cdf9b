"""sentence-transformers behind HTTP, as one writes it in an afternoon: a peer of bench/crowd.py.

    python bench/http_peer.py MODEL PORT

POST /embeddings {"input": [texts]} answers as OpenAI's API does. Calls take the model in turn.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
import asyncio
import sys

import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


def application(directory):
    model = SentenceTransformer(directory, device="cpu", local_files_only=True)
    turn = asyncio.Semaphore(1)

    async def embeddings(request):
        texts = (await request.json())["input"]
        async with turn:
            vectors = await asyncio.to_thread(model.encode, texts, show_progress_bar=False)
        data = [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
        return JSONResponse({"data": data})

    return Starlette(routes=[Route("/embeddings", embeddings, methods=["POST"])])


if __name__ == "__main__":
    app = application(sys.argv[1])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
