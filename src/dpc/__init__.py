"""Dynamic Prompt Corruption (ICLR 2025): soft prompts that step back where they mislead the reasoning."""
