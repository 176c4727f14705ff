"""The words of the house as typed values. Standard library only; nothing here does any work."""
