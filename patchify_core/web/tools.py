"""The page's API as tools over the Model Context Protocol: Gradio's server, whose answers are JSON."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from patchify_core.errors import PatchifyError

INSTALL = 'pip install "gradio[mcp]==6.31.0"'
"""Installs what the server needs; requirements.txt does too."""


def offer_tools() -> None:
    """Makes Gradio's MCP server answer in JSON; called before the launch with `mcp_server=True`.

    Gradio gives a tool's answer as Python writes it (`{'box': None}`), which no JSON reader takes.

    Raises:
        PatchifyError: if the `mcp` package is not installed. (Gradio would start without the server and say nothing.)
    """
    if importlib.util.find_spec("mcp") is None:
        raise PatchifyError(f"The MCP server needs the package mcp, which is not installed: run {INSTALL}.")
    import gradio.mcp

    class JsonServer(gradio.mcp.GradioMCPServer):
        """Gradio's, apart from how answers are written, and without what the page does not offer."""

        def create_mcp_server(self) -> Any:
            """Tools alone; Gradio answers `prompts/get` for any name with its last tool, asked as the server itself."""
            server = super().create_mcp_server()
            offered = (self.types.ListToolsRequest, self.types.CallToolRequest, self.types.PingRequest)
            for request in set(server.request_handlers) - set(offered):
                del server.request_handlers[request]
            return server

        def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
            """Lists and objects as JSON; the rest as Gradio does it."""
            return super().postprocess_output_data([_as_json(value) for value in data], root_url)

    gradio.mcp.GradioMCPServer = JsonServer  # type: ignore[misc]  # where Gradio's launch looks for it


def _as_json(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
