"""Verdicts on their way to gates, brokers and web servers; a slow one never slows inspection."""
