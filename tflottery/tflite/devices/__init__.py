"""Devices: files for microNPUs and microcontrollers, tried in their vendors' tools."""
