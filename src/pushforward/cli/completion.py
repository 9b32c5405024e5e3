"""``pushforward completion SHELL``: a script that completes commands, families, names of data and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from pushforward.catalog import FAMILIES
from pushforward.cli import COMMANDS, command
from pushforward.cli.arguments import Command, Option, described, options, positional

_HOW = {
    "bash": "pushforward completion bash > ~/.local/share/bash-completion/completions/pushforward",
    "zsh": "pushforward completion zsh > a folder of $fpath, as _pushforward",
    "fish": "pushforward completion fish > ~/.config/fish/completions/pushforward.fish",
}


@dataclass(frozen=True, kw_only=True)
class Completion(Command):
    """Print a script that completes commands, families, names of data and options.

    bash, for this shell: source <(pushforward completion bash)
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], positional("SHELL")]
    """bash, zsh or fish."""

    def do(self, argv: Sequence[str]) -> int:
        print(_SCRIPTS[self.shell](), end="")
        return 0


def _names() -> list[str]:
    from pushforward.data.known import NAMES

    return list(NAMES)


def _own(name: str) -> list[tuple[str, str]]:
    """Flags of a family's own options, with their help."""
    config = FAMILIES[name].options
    helps = described(config)
    return [("--" + f.name.replace("_", "-"), helps.get(f.name, "")) for f in fields(config)]


def _flags(known: Sequence[Option]) -> list[str]:
    return [*(flag for o in known for flag in o.flags), "--help"]


def _choices(known: Sequence[Option]) -> dict[str, tuple[str, ...]]:
    return {flag: o.choices for o in known if o.choices for flag in o.flags}


def _words(values: Any) -> str:
    return " ".join(values)


def _cases(indent: str) -> tuple[str, str, str]:
    """Shell cases: flags of each command, flags of each family, values of options with choices."""
    shapes = {name: options(command(name)) for name in COMMANDS}
    per_command = "\n".join(f'{indent}{name}) flags="{_words(_flags(known))}" ;;' for name, known in shapes.items())
    per_family = "\n".join(f'{indent}{name}) flags="$flags {_words(f for f, _ in _own(name))}" ;;' for name in FAMILIES)
    choices: dict[str, tuple[str, ...]] = {}
    for known in shapes.values():
        choices |= _choices(known)
    values = "\n".join(f'{indent}{flag}) words="{_words(c)}" ;;' for flag, c in choices.items())
    return per_command, per_family, values


def _bash() -> str:
    per_command, per_family, values = _cases("        ")
    return f"""# bash completion of pushforward: {_HOW["bash"]}
_pushforward() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD - 1]}}"
    local flags="" words="" family="" word
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{_words(COMMANDS)} --help --version" -- "$current"))
        return
    fi
    case "$previous" in
{values}
    esac
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{per_command}
    esac
    if [[ ${{COMP_WORDS[1]}} == fit && $COMP_CWORD -gt 3 ]]; then
        family="${{COMP_WORDS[3]}}"
    fi
    case "$family" in
{per_family}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}:$COMP_CWORD" in
        fit:2|compare:2|inspect:2) words="{_words(_names())}" ;;
        fit:3) words="{_words(FAMILIES)}" ;;
        compare:*) [[ $previous == --* ]] || words="{_words(FAMILIES)}" ;;
        score:3|encode:3|complete:3|predict:3) words="{_words(_names())}" ;;
        completion:2) words="bash zsh fish" ;;
    esac
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -o default -o bashdefault -F _pushforward pushforward
"""


def _zsh() -> str:
    per_command, per_family, values = _cases("        ")
    described_commands = "\n".join(f"        {_quoted(f'{name}:{about}')}" for name, (_, about) in COMMANDS.items())
    return f"""#compdef pushforward
# zsh completion of pushforward: {_HOW["zsh"]}
_pushforward() {{
    local current="${{words[CURRENT]}}" previous="${{words[CURRENT - 1]}}" chosen="${{words[2]}}" family=""
    local flags="" found=""
    if (( CURRENT == 2 )); then
        local -a commands
        commands=(
{described_commands}
        )
        _describe command commands
        return
    fi
    case "$previous" in
{values.replace('words="', 'found="')}
    esac
    if [[ -n $found ]]; then
        compadd -- ${{=found}}
        return
    fi
    case "$chosen" in
{per_command}
    esac
    if [[ $chosen == fit ]] && (( CURRENT > 4 )); then
        family="${{words[4]}}"
    fi
    case "$family" in
{per_family}
    esac
    if [[ $current == -* ]]; then
        compadd -- ${{=flags}}
        return
    fi
    case "$chosen:$CURRENT" in
        fit:3|compare:3|inspect:3) found="{_words(_names())}" ;;
        fit:4) found="{_words(FAMILIES)}" ;;
        compare:*) [[ $previous == --* ]] || found="{_words(FAMILIES)}" ;;
        score:4|encode:4|complete:4|predict:4) found="{_words(_names())}" ;;
        completion:3) found="bash zsh fish" ;;
    esac
    if [[ -n $found ]]; then
        compadd -- ${{=found}}
    fi
    _files
}}
if [[ $funcstack[1] == _pushforward ]]; then
    _pushforward "$@"
else
    compdef _pushforward pushforward
fi
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish() -> str:
    lines = [
        f"# fish completion of pushforward: {_HOW['fish']}",
        "function __pushforward_at",
        "    set -l typed (commandline -opc)",
        '    test (count $typed) -eq $argv[2]; and test "$typed[2]" = $argv[1]',
        "end",
        "function __pushforward_family",
        "    set -l typed (commandline -opc)",
        '    test (count $typed) -ge 4; and test "$typed[2]" = fit; and test "$typed[4]" = $argv[1]',
        "end",
    ]

    def add(condition: str, rest: str) -> None:
        lines.append(f"complete -c pushforward -n {_fish_quoted(condition)} {rest}")

    for name, (_, about) in COMMANDS.items():
        add("__fish_use_subcommand", f"-f -a {name} -d {_fish_quoted(about)}")
    for name in COMMANDS:
        for o in options(command(name)):
            if o.positional:
                continue
            parts = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in o.flags]
            if not o.switch:
                parts.append(f"-x -a {_fish_quoted(_words(o.choices))}" if o.choices else "-r")
            add(f"__fish_seen_subcommand_from {name}", f"{_words(parts)} -d {_fish_quoted(o.help)}")
    for name in FAMILIES:
        for flag, about in _own(name):
            add(f"__pushforward_family {name}", f"-l {flag[2:]} -r -d {_fish_quoted(about)}")
    for name, at in (("fit", 2), ("compare", 2), ("inspect", 2), ("score", 3), ("encode", 3), ("complete", 3), ("predict", 3)):
        add(f"__pushforward_at {name} {at}", f"-a {_fish_quoted(_words(_names()))}")
    add("__pushforward_at fit 3", f"-f -a {_fish_quoted(_words(FAMILIES))}")
    add("__fish_seen_subcommand_from compare", f"-a {_fish_quoted(_words(FAMILIES))}")
    add("__pushforward_at completion 2", "-f -a 'bash zsh fish'")
    return "\n".join(lines) + "\n"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
