"""What was found, for people.

Enters: what parts found. Leaves: lines and tables on standard output.
"""

from __future__ import annotations

from typing import Any

import harness
from gpu.targets import Found


def line(title: str, result: dict[str, Any]) -> str:
    """A part's outcome."""
    why = f": {result['why']}" if "why" in result else ""
    return f"{title:<36} {result['status']:<8} {result['seconds']:6.1f} s{why}"


def show(found: Found) -> None:
    """Tables of all that was measured."""
    if "machine" in found:
        for name, check in found["machine"]["checks"].items():
            print(f"{name:<12} {check['found']}")
        print(f"{'nvidia-smi':<12} {found['machine']['nvidia_smi']}")
        print(f"{'libnvcuvid':<12} {found['machine']['nvcuvid']}\n")
    if "engines" in found:
        engines = found["engines"]
        hardware = engines["hardware"]
        print(f"{engines['device']}: nvJPEG {engines['nvjpeg']}, {hardware}\n")
    if "order" in found:
        for lane, one in found["order"].items():
            words = one.get("why_not") or (
                f"overtook what came before {one['overtook']} of {one['rounds']} times, was "
                f"overtaken by what came after {one['copied_early']} times"
            )
            print(f"decode by {lane}: {words}")
        print()
    _rates(found)
    _correctness(found)


def _rates(found: Found) -> None:
    rows = []
    if "ceilings" in found:
        for way in found["ceilings"]["ways"]:
            title = f"nvJPEG, {way['lane']}, batches of {way['batch']}, {way['states']} states"
            title += "".join(f", {word}" for word in way.get("how", ()))
            if "call_us_per_image" in way:
                of_call = (way["call_us_per_image"], way["call_cpu_us_per_image"])
                title += f", call {of_call[0]:.1f} us ({of_call[1]:.1f} of CPU)"
            rows.append(_rate(title, way))
        if "no_best" in found["ceilings"]:
            print(f"nvJPEG's best is not known: {found['ceilings']['no_best']}\n")
    if "unit" in found:
        for way in found["unit"]["ways"]:
            rows.append(_rate(f"loaderd's unit, {way['form']}, {way['options']}", way))
    if "daemon" in found:
        into = found["daemon"]["into"]
        for way in found["daemon"]["ways"]:
            rows.append(_rate(f"loaderd into {into}, {way['decode']}, {way['form']}", way))
    for name in ("torchvision", "nvimagecodec", "dali"):
        if name in found:
            rows.append(_rate(f"{name} {found[name]['version']}", found[name]))
    if rows:
        harness.show(["", "images/s", "CPU us/image", "gap ms, p50", "p99", "by GPU"], rows)
    if "copies" in found:
        copies = [
            [
                f"{one['bytes']:,} bytes",
                f"{one['to_device_gb_per_s']:.1f}",
                f"{one['to_host_gb_per_s']:.1f}",
            ]
            for one in found["copies"]["copies"]
        ]
        harness.show(["registered memory, GB/s", "to the device", "to the host"], copies)
    if "neighbour" in found:
        steps = [
            [
                f"{one['decode']}, {one['form']}, {one['images_per_s']:,.0f} images/s"
                + ("" if one["gpu_share"] is None else f", {one['gpu_share']:.2f} by the GPU")
                + ("" if one.get("is_pinned", True) else ", NOT PINNED"),
                f"{one['step_ms_before']:.2f}",
                f"{one['step_ms_beside']:.2f}",
                f"{one['step_ms_after']:.2f}",
            ]
            for one in found["neighbour"]["ways"]
        ]
        harness.show(["a step's ms", "before", "beside", "after"], steps)


def _rate(title: str, way: dict[str, Any]) -> list[str]:
    if "images_per_s" not in way:
        return [f"{title}: {way['why_not']}", "", "", "", "", ""]
    rest = ("cpu_us_per_image", "gap_ms_median", "gap_ms_p99")
    cells = ["" if way.get(name) is None else f"{way[name]:.1f}" for name in rest]
    cells.append("" if way.get("gpu_share") is None else f"{way['gpu_share']:.2f}")
    return [title, f"{way['images_per_s']:,.0f}", *cells]


def _correctness(found: Found) -> None:
    if "kinds" in found:
        rows = [
            [one["name"], f"{one['difference']:.3f}", str(one["most"])]
            for one in found["kinds"]["kinds"]
        ]
        harness.show(["grey levels from the CPU's", "mean", "most"], rows)
        print(f"{found['kinds']['gpu']}\n")
    for lane in ("hardware", "phases"):
        if f"pixels-{lane}" in found:
            both = found[f"pixels-{lane}"]
            cells: dict[str, list[str]] = {}
            for way in both.values():
                for one in way["kinds"]:
                    cells.setdefault(one["name"], [one["name"]]).append(_mean(one))
            harness.show([f"nvJPEG's own pixels, {lane}", *both], list(cells.values()))
    for part in ("unit-kinds", "unit-damaged"):
        if part in found:
            rows = [_finished(one) for one in found[part]["kinds"]]
            harness.show([part, "route", "alone", "together"], rows)
    if "damaged" in found:
        one = found["damaged"]
        print(
            f"damaged: {one['damaged_rows']} rows, valid by one decoder only: "
            f"{', '.join(one['otherwise_valid']) or 'none'}; {one['good_rows']} good rows between "
            f"them, {one['good_difference_max']:.3f} grey levels from the CPU's at most\n"
        )
    for name in ("skips-hardware", "skips-cuda"):
        if name in found:
            one = found[name]
            parts = (
                "success_but_nothing_written",
                "success_but_neighbours_not_written",
                "next_batch_not_written",
                "device_failed",
            )
            for part in parts:
                print(f"{name}: {part}: {', '.join(one[part]) or 'none'}")
            print()
    for lane, one in found.get("strict", {}).items():
        if "why_not" in one:
            print(f"strict nvJPEG, {lane}: {one['why_not']}")
            continue
        lost = [file["name"] for file in one["whole_refused"]]
        caught = [file["name"] for file in one["damaged"] if not file["usual"] and file["strict"]]
        missed = [file["name"] for file in one["damaged"] if not file["strict"]]
        print(f"strict nvJPEG, {lane}: of {one['whole']} whole files refused: {_names(lost)}")
        print(f"strict nvJPEG, {lane}: damaged files refused for that alone: {_names(caught)}")
        print(f"strict nvJPEG, {lane}: damaged files taken all the same: {_names(missed)}\n")
    for part in [part for part in ("tests", "pinned") if part in found]:
        for outcome in ("passed", "failed", "skipped"):
            for name in found[part][outcome]:
                print(f"test {outcome}: {name}")
        print()


def _names(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _mean(one: dict[str, Any]) -> str:
    return f"{one['mean']:.3f}" if "mean" in one else "not taken"


def _finished(one: dict[str, Any]) -> list[str]:
    cells = []
    for way in ("alone", "together"):
        said = one[way]
        cells.append(f"{said['mean']:.3f}" if "mean" in said else str(said["outcome"]))
    return [one["name"], one["alone"]["route"], *cells]


def show_targets(verdicts: list[dict[str, Any]]) -> None:
    """Targets beside what was measured; a miss is called one."""
    rows = []
    for one in verdicts:
        value = "" if one["value"] is None else f"{one['value']:.3f}{one['unit']}"
        sign = "<=" if one["at_most"] else ">="
        rows.append([one["title"], value, f"{sign} {one['bound']:g}{one['unit']}", one["verdict"]])
    harness.show(["", "measured", "target", ""], rows)
