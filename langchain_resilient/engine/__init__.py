"""Decides and drives. Knows neither LangChain nor any SDK."""
