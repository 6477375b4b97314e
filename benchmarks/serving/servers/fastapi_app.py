"""FastAPI as its tutorial shows it, with the model called in the handler; two workers, one for each processor.

uvicorn benchmarks.serving.servers.fastapi_app:app --workers 2 --no-access-log
"""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.servers.classifier import Answer, Classifier

app = FastAPI()
classify = Classifier()


class Review(BaseModel):
    text: str


@app.post("/predict")
async def predict(review: Review) -> Answer:
    return classify([review.text])[0]
