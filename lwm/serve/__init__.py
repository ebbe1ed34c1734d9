"""An OpenAI-compatible server for RF-GPT (``lwm serve``)."""
