# The service: docker build -t langchain-resilient . && docker run -p 8000:8000 -e OPENAI_API_KEY \
#   -e SERVICE_KEY langchain-resilient -t openai:gpt-6.1-sol --client-key env:SERVICE_KEY
FROM python:3.13-slim

# httpx2 trusts the system's certificates, which slim images lack.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
  && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY langchain_resilient langchain_resilient
RUN pip install --no-cache-dir ".[serve,prices]"

RUN useradd --create-home service
USER service
WORKDIR /home/service
EXPOSE 8000
# SIGTERM drains; give it longer than `drain_seconds`: docker stop --time 70.
STOPSIGNAL SIGTERM
ENTRYPOINT ["langchain-resilient", "serve", "--host", "0.0.0.0"]
