"""The engine on llama.cpp. With `tenantd/text/` the only importer of llama_cpp."""

from tenantd.engine.llama.decode import LlamaCompute

__all__ = ["LlamaCompute"]
