"""Model card: the README.md of a ticket's repository on the Hugging Face Hub."""

from typing import Any

from tflottery.showing import ticket_tables
from tflottery.showing.drawing import share


def model_card(ticket: Any) -> str:
    """Returns the card: metadata between two lines of `---`, then Markdown."""
    settings = {name: v for name, v in ticket.config.to_dict().items() if v}
    lines = [
        "---",
        "library_name: tflottery",
        "tags:",
        *(f"- {tag}" for tag in ("keras", "lottery-ticket", "pruning", "sparsity")),
        "---",
        "",
        "# Sparse network: a lottery ticket",
        "",
        _headline(ticket),
        *("", "## Use it", "", "```python", "import tflottery", ""),
        '# The ticket\'s file; with `pip install huggingface_hub` also a URL, "hf://...".',
        'ticket = tflottery.load_ticket("my.ticket")',
        "ticket.apply(model)  # a model of this architecture, now sparse and trained",
        "```",
        *("", "## Layers", "", ticket_tables.as_markdown(ticket_tables.layers(ticket))),
        *("", "## Rounds", "", ticket_tables.as_markdown(ticket_tables.rounds(ticket))),
        "",
        f"`{ticket.monitor}` chose the round, so its value there is optimistic. Say "
        "here what it is on data that chose nothing, and what the network was trained "
        "on.",
        *("", "## How it was found", ""),
        *(f"- {name}: `{value}`" for name, value in settings.items()),
        *(f"- {name} {version}" for name, version in ticket.versions.items()),
        f"- architecture: `{ticket.architecture}`",
        "",
    ]
    return "\n".join(lines)


def _headline(ticket: Any) -> str:
    kept = (
        f"It keeps {share(ticket.density)} of the weights that can be pruned; the "
        "others are zero."
    )
    if ticket.round >= len(ticket.rounds):
        return kept
    dense, found = (
        ticket.rounds[number].metrics.get(ticket.monitor)
        for number in (0, ticket.round)
    )
    if dense is None or found is None:
        return kept
    return f"{kept} `{ticket.monitor}`: {found:.4f}; the dense network: {dense:.4f}."
