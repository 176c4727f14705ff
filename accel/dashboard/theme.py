"""How every page looks. Guarantee: fonts and styles come with the packages; no page asks another host.

Colours and sizes that Gradio draws itself are set in its theme; everything of ours is in ``page.css``,
which reads the same custom properties in light and dark. ``page.js`` opens the passage behind a citation.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

LIGHT = {"paper": "#fbfaf7", "sheet": "#ffffff", "ink": "#1b1d1f", "quiet": "#5d6266", "line": "#dedbd3",
         "accent": "#0b655c"}  # fmt: skip
DARK = {"paper": "#131517", "sheet": "#1b1e21", "ink": "#e8e7e3", "quiet": "#a3a8ab", "line": "#33383c",
        "accent": "#62c9b9"}  # fmt: skip


def theme() -> Any:
    """The Gradio theme: IBM Plex, bundled with Gradio; few colours, thin lines, no shadows."""
    import gradio as gr

    # 400 and 700: Gradio's other Plex weights are subsets without the letters a to z
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_sm,
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    )  # fmt: skip
    plain = {
        "body_background_fill": "paper", "body_text_color": "ink", "body_text_color_subdued": "quiet",
        "background_fill_primary": "sheet", "background_fill_secondary": "paper",
        "border_color_primary": "line", "input_background_fill": "sheet", "input_border_color": "line",
        "input_border_color_focus": "accent", "block_background_fill": "paper",
        "block_label_text_color": "quiet", "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "ink", "button_primary_text_color": "paper",
        "button_secondary_background_fill": "sheet", "button_secondary_text_color": "ink",
        "button_secondary_border_color": "line", "button_secondary_background_fill_hover": "paper",
        "link_text_color": "accent", "input_placeholder_color": "quiet",
    }  # fmt: skip
    settings = {name: LIGHT[colour] for name, colour in plain.items()}
    settings |= {f"{name}_dark": DARK[colour] for name, colour in plain.items()}
    return base.set(**settings, block_border_width="0", block_shadow="none", input_shadow_focus="none")


def head() -> str:
    """Our style and script, inline: two requests less, and Gradio does not rewrite the selectors."""
    here = resources.files("accel.dashboard")
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    return f"<style>{_colours()}\n{style}</style><script>{script}</script>"


def _colours() -> str:
    def block(selector: str, colours: dict[str, str]) -> str:
        return selector + "{" + "".join(f"--{k}:{v};" for k, v in colours.items()) + "}"

    return block(":root", LIGHT) + block(".dark", DARK)
