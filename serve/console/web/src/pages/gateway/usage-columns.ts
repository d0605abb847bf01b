/** The columns of usage, by whatever it is grouped. */
import type { Schemas } from "../../api";
import { DASH, num, percent, si, usd } from "../../fmt";
import type { Column } from "../../ui/table";

type Group = Schemas["UsageGroup"];

export function ms(value: number | null): string {
  return value === null ? DASH : `${num(value)} ms`;
}

export function columnsBy(by: string): Column<Group>[] {
  const number = (
    id: string,
    label: string,
    of: (group: Group) => number | null,
    text: (value: number | null) => string,
  ) => ({
    id,
    label,
    num: true,
    cell: (group: Group) => text(of(group)),
    sort: of,
  });
  return [
    {
      id: by,
      label: by,
      cell: (group) => group.by.key_name || group.by[by] || "none",
      sort: (group) => group.by[by],
    },
    number("spend", "Spend", (group) => group.cost_micro_usd / 1e6, usd),
    number("requests", "Requests", (group) => group.requests, num),
    number("errors", "Errors", (group) => group.error_rate, percent),
    number("prompt", "Prompt tokens", (group) => group.prompt_tokens, si),
    number("completion", "Completion tokens", (group) => group.completion_tokens, si),
    number("p50", "p50", (group) => group.latency_p50_ms, ms),
    number("p99", "p99", (group) => group.latency_p99_ms, ms),
  ];
}
