/** The statistics of a data set: lengths, turns, languages and roles, as bars with their numbers beside them. */
import { num, percent, sig } from "../../fmt";
import { Facts } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Notice } from "../../ui/state";

type Lengths = {
  min?: number;
  median?: number;
  p90?: number;
  p99?: number;
  max?: number;
  mean?: number;
  histogram: { from: number; to: number; rows: number }[];
};
type Part = {
  rows: number;
  characters: number;
  length_characters: Lengths;
  languages: Record<string, number>;
  roles: Record<string, number>;
  turns: Record<string, number>;
  with_tools: number;
};
export type Statistics = {
  train?: Part | null;
  test?: Part | null;
  duplicates?: { exact: number; near: number; dropped: number };
  overlap?: number;
};

export function StatisticsPanels({ stats }: { stats: Statistics }) {
  const { duplicates, overlap } = stats;
  return (
    <>
      {duplicates && (
        <Facts
          of={[
            ["Same rows", num(duplicates.exact)],
            ["Nearly the same", num(duplicates.near)],
            ["Dropped", num(duplicates.dropped)],
            ["Held-out rows that training asks too", num(overlap ?? 0)],
          ]}
        />
      )}
      {Boolean(overlap) && (
        <Notice kind="warn">
          {num(overlap)} held-out rows ask a question that is in the training rows: a score on them says too
          much.
        </Notice>
      )}
      <div className="panels">
        {stats.train && <PartPanel title="Training rows" part={stats.train} />}
        {stats.test && <PartPanel title="Held-out rows" part={stats.test} />}
      </div>
    </>
  );
}

function PartPanel({ title, part }: { title: string; part: Part }) {
  return (
    <Panel title={`${title}: ${num(part.rows)}`}>
      <LengthsOf title="Characters of a row" lengths={part.length_characters} />
      <Shares title="Messages of a row" of={part.turns} all={part.rows} />
      <Shares title="Language" of={part.languages} all={1} shares />
      <Shares
        title="Messages by role"
        of={part.roles}
        all={Object.values(part.roles).reduce((sum, each) => sum + each, 0)}
      />
      <p className="small">{num(part.with_tools)} rows offer tools.</p>
    </Panel>
  );
}

export function LengthsOf({ title, lengths }: { title: string; lengths: Lengths }) {
  const most = Math.max(1, ...lengths.histogram.map((each) => each.rows));
  return (
    <>
      <Facts
        of={[
          ["Least", num(lengths.min)],
          ["Median", num(lengths.median)],
          ["p90", num(lengths.p90)],
          ["p99", num(lengths.p99)],
          ["Most", num(lengths.max)],
          ["Mean", sig(lengths.mean)],
        ]}
      />
      <Bars
        title={title}
        rows={lengths.histogram.map((each) => [
          `${num(each.from)}–${num(each.to - 1)}`,
          num(each.rows),
          each.rows / most,
        ])}
      />
    </>
  );
}

function Shares({
  title,
  of,
  all,
  shares = false,
}: {
  title: string;
  of: Record<string, number>;
  all: number;
  shares?: boolean;
}) {
  return (
    <Bars
      title={title}
      rows={Object.entries(of).map(([name, value]) => [
        name,
        shares ? percent(value) : num(value),
        all ? value / all : 0,
      ])}
    />
  );
}

/** Name, number and bar; the bar says no more than the number. */
function Bars({ title, rows }: { title: string; rows: [string, string, number][] }) {
  if (rows.length === 0) return null;
  return (
    <table className="bars">
      <caption>{title}</caption>
      <tbody>
        {rows.map(([name, text, share]) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td className="num">{text}</td>
            <td>
              <div className="bar" aria-hidden="true">
                <div className="bar-done" style={{ width: `${Math.round(Math.min(1, share) * 100)}%` }} />
              </div>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
