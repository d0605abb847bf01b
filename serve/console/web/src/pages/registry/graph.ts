/** The chain behind a version as a graph: columns of boxes from data to alias, and the lines between them. */
import type { Schemas } from "../../api";
import { num, sig } from "../../fmt";

export type Box = { id: string; kind: string; name: string; href?: string; x: number; y: number };
export type Graph = {
  boxes: Box[];
  lines: { from: Box; to: Box }[];
  width: number;
  height: number;
};

export const WIDTH = 200;
export const HEIGHT = 44;
const GAP_X = 48;
const GAP_Y = 12;
const MOST = 8;
const CHARS = 26;

type Plain = { id: string; kind: string; name: string; href?: string; from: string[] };

export function graphOf(lineage: Schemas["Lineage"]): Graph {
  const { version, dataset, base, promotions } = lineage;
  const files: Plain[] = lineage.quantizations.map((each) => ({
    id: `file ${each.artifact_name} ${each.file}`,
    kind: "file",
    name: each.type,
    from: ["version"],
  }));
  const scores: Plain[] = lineage.evaluations
    .filter((each) => each.artifact_name === version.artifact_name)
    .map((each, at) => ({
      id: `score ${at}`,
      kind: "score",
      name: `${each.task} ${sig(each.score)} (n=${num(each.samples)})`,
      from: ["version"],
    }));
  const decided: Plain[] = promotions.map((each) => ({
    id: `promotion ${each.id}`,
    kind: "promotion",
    name: `to ${each.alias}: ${each.state}`,
    href: `/promotions?id=${each.id}`,
    from: ["version"],
  }));
  const aliases: Plain[] = version.aliases.map((alias) => ({
    id: `alias ${alias}`,
    kind: "alias",
    name: `${version.llm}@${alias}`,
    href: `/registry/${version.llm}?tab=history`,
    from: promotions
      .filter((each) => each.alias === alias && each.state === "executed")
      .slice(-1)
      .map((each) => `promotion ${each.id}`),
  }));
  return placed([
    [
      {
        id: "data",
        kind: "data set",
        name: `${dataset.name} ${dataset.number}`,
        href: `/data/${dataset.name}?number=${dataset.number}`,
        from: [],
      },
      { id: "base", kind: "base", name: base.name, from: [] },
    ],
    [
      {
        id: "run",
        kind: "run",
        name: version.job_id,
        href: `/runs/${version.job_id}`,
        from: ["data", "base"],
      },
    ],
    [
      {
        id: "version",
        kind: "version",
        name: `${version.llm} ${version.number}`,
        from: ["run"],
      },
    ],
    [...files, ...scores, ...decided].slice(0, MOST * 2),
    aliases,
  ]);
}

function placed(columns: Plain[][]): Graph {
  const shown = columns.filter((each) => each.length > 0);
  const most = Math.max(...shown.map((each) => each.length));
  const tall = most * (HEIGHT + GAP_Y) - GAP_Y;
  const found = new Map<string, Box>();
  const lines: Graph["lines"] = [];
  for (const [column, boxes] of shown.entries()) {
    const top = (tall - (boxes.length * (HEIGHT + GAP_Y) - GAP_Y)) / 2;
    for (const [row, each] of boxes.entries()) {
      const { from, ...rest } = each;
      const box = {
        ...rest,
        name: cut(each.name),
        x: column * (WIDTH + GAP_X),
        y: top + row * (HEIGHT + GAP_Y),
      };
      found.set(each.id, box);
      for (const before of from) {
        const start = found.get(before);
        if (start) lines.push({ from: start, to: box });
      }
    }
  }
  return { boxes: [...found.values()], lines, width: shown.length * (WIDTH + GAP_X) - GAP_X, height: tall };
}

function cut(text: string): string {
  return text.length > CHARS ? `${text.slice(0, CHARS - 1)}…` : text;
}

/** What the graph shows, for who does not see it. */
export function sentenceOf({ version, dataset, base, promotions }: Schemas["Lineage"]): string {
  const aliases = version.aliases.length ? `; ${version.aliases.join(", ")} point to it` : "";
  return (
    `data set ${dataset.name} ${dataset.number} and base ${base.name} went into run ${version.job_id}, which made ` +
    `${version.llm} ${version.number}; ${num(promotions.length)} promotions${aliases}`
  );
}
