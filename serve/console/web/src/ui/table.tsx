/**
 * A table of one page of rows. One tab stop: j and k (or arrows) move the row, Enter opens it, space marks it. A row with
 * `detail` opens in place, one at a time, and stays open as the next one's when j or k goes on.
 * Pages are by cursor, which stands in the address; nothing is counted.
 */
import {
  type KeyboardEvent,
  memo,
  type ReactNode,
  useCallback,
  useEffect,
  useId,
  useRef,
  useState,
} from "react";
import { Link, useLocation, useSearchParams } from "wouter";
import { Button } from "./controls";

export type Column<Row> = {
  id: string;
  label: string;
  cell: (row: Row) => ReactNode;
  /** Right-aligned, in mono. */
  num?: boolean;
  /** What to sort by; without it the column's head is no button. Sorts the rows of the page. */
  sort?: (row: Row) => number | string | null | undefined;
};

type Props<Row> = {
  caption: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => string;
  /** Where Enter and the first cell's link go. */
  href?: (row: Row) => string;
  /** What stands below a row once Enter, or its first cell's button, has opened it. */
  detail?: (row: Row) => ReactNode;
  /** Of the next page; null: this is the last. */
  nextCursor?: string | null;
  /** Old rows are shown while new ones come. */
  busy?: boolean;
  marked?: ReadonlySet<string>;
  onMark?: (key: string) => void;
  /** What stands here instead of no rows. */
  empty?: ReactNode;
};

type Order = { id: string; down: boolean } | null;
const BEAT_MS = 10_000;

export function Table<Row>(props: Props<Row>) {
  const { columns, rowKey, href, detail, onMark, marked } = props;
  const [unfolded, unfold] = useState<string | null>(null);
  const turn = useCallback((key: string) => unfold((before) => (before === key ? null : key)), []);
  const [order, setOrder] = useState<Order>(null);
  const [at, setAt] = useState(0);
  const [, navigate] = useLocation();
  const body = useRef<HTMLTableSectionElement>(null);
  const beat = useBeat();
  const rows = sorted(props.rows, columns, order);
  const current = Math.min(at, Math.max(0, rows.length - 1));

  const move = (to: number) => {
    const next = Math.min(Math.max(0, to), rows.length - 1);
    setAt(next);
    const row = rows[next];
    if (unfolded !== null && row) unfold(rowKey(row));
    body.current?.querySelectorAll<HTMLElement>(":scope > tr[data-key]")[next]?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.target instanceof HTMLElement && event.target.closest("a, button, input, select, .unfolded")) {
      if (!["j", "k"].includes(event.key)) return;
    }
    const row = rows[current];
    if (event.key === "j" || event.key === "ArrowDown") move(current + 1);
    else if (event.key === "k" || event.key === "ArrowUp") move(current - 1);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(rows.length - 1);
    else if (event.key === "Enter" && row && href) navigate(href(row));
    else if (event.key === "Enter" && row && detail) turn(rowKey(row));
    else if (event.key === " " && row && onMark) onMark(rowKey(row));
    else return;
    event.preventDefault();
  };

  if (rows.length === 0 && props.empty) return props.empty;
  return (
    <>
      <div className="table-box" aria-busy={props.busy || undefined}>
        <table>
          <caption className="hidden">{props.caption}</caption>
          <thead>
            <tr>
              {onMark && (
                <th scope="col">
                  <span className="hidden">Marked</span>
                </th>
              )}
              {columns.map((column) => (
                <Head key={column.id} column={column} order={order} setOrder={setOrder} />
              ))}
            </tr>
          </thead>
          <tbody ref={body} data-rows onKeyDown={onKey}>
            {rows.map((row, index) => {
              const key = rowKey(row);
              return (
                <Line
                  key={key}
                  name={key}
                  row={row}
                  index={index}
                  current={index === current}
                  marked={marked?.has(key) ?? false}
                  columns={columns}
                  href={href}
                  detail={detail}
                  unfolded={unfolded === key}
                  onTurn={turn}
                  onMark={onMark}
                  onFocus={setAt}
                  beat={beat}
                />
              );
            })}
          </tbody>
        </table>
      </div>
      {props.nextCursor !== undefined && <Pager next={props.nextCursor} />}
    </>
  );
}

type LineProps<Row> = Pick<Props<Row>, "columns" | "href" | "detail" | "onMark"> & {
  name: string;
  row: Row;
  index: number;
  current: boolean;
  marked: boolean;
  unfolded: boolean;
  onTurn: (key: string) => void;
  onFocus: (index: number) => void;
  /** Changes as time goes on, of which cells may tell. */
  beat: number;
};

function useBeat(): number {
  const [beat, next] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => next((before) => before + 1), BEAT_MS);
    return () => clearInterval(timer);
  }, []);
  return beat;
}

function LineOf<Row>(props: LineProps<Row>) {
  const { name, row, index, current, marked, unfolded, columns, href, detail, onMark, onTurn, onFocus } =
    props;
  const id = useId();
  const first = (content: ReactNode) => {
    if (href) {
      return (
        <Link href={href(row)} tabIndex={-1}>
          {content}
        </Link>
      );
    }
    if (!detail) return content;
    return (
      <button
        type="button"
        className="fold"
        tabIndex={-1}
        aria-expanded={unfolded}
        aria-controls={unfolded ? id : undefined}
        onClick={() => onTurn(name)}
      >
        <span aria-hidden="true">{unfolded ? "▾" : "▸"}</span> {content}
      </button>
    );
  };
  return (
    <>
      <tr data-key={name} tabIndex={current ? 0 : -1} onFocus={() => onFocus(index)}>
        {onMark && (
          <td>
            <input
              type="checkbox"
              tabIndex={-1}
              aria-label={`Mark ${name}`}
              checked={marked}
              onChange={() => onMark(name)}
            />
          </td>
        )}
        {columns.map((column, place) => (
          <td key={column.id} className={column.num ? "num" : undefined}>
            {place === 0 ? first(column.cell(row)) : column.cell(row)}
          </td>
        ))}
      </tr>
      {detail && unfolded && (
        <tr className="unfolded" id={id}>
          <td colSpan={columns.length + (onMark ? 1 : 0)}>{detail(row)}</td>
        </tr>
      )}
    </>
  );
}

/** Drawn again only when it is another: a key that goes to the next row, or one typed in a filter, draws no table anew. */
const Line = memo(LineOf) as typeof LineOf;

function Head<Row>({
  column,
  order,
  setOrder,
}: {
  column: Column<Row>;
  order: Order;
  setOrder: (order: Order) => void;
}) {
  const mine = order?.id === column.id ? order : null;
  const sort = mine ? (mine.down ? "descending" : "ascending") : "none";
  return (
    <th scope="col" className={column.num ? "num" : undefined} aria-sort={column.sort ? sort : undefined}>
      {column.sort ? (
        <button
          type="button"
          onClick={() =>
            setOrder(
              !mine ? { id: column.id, down: true } : mine.down ? { id: column.id, down: false } : null,
            )
          }
        >
          {column.label} <span aria-hidden="true">{mine ? (mine.down ? "↓" : "↑") : "↕"}</span>
        </button>
      ) : (
        column.label
      )}
    </th>
  );
}

/** First and next; back is the browser's. */
function Pager({ next }: { next: string | null }) {
  const [params, set] = useSearchParams();
  const page = Number(params.get("page") ?? "1");
  const go = (cursor: string | null, to: number) =>
    set((before) => {
      const after = new URLSearchParams(before);
      after.delete("cursor");
      after.delete("page");
      if (cursor) after.set("cursor", cursor);
      if (to > 1) after.set("page", String(to));
      return after;
    });
  if (page === 1 && next === null) return null;
  return (
    <nav className="pager" aria-label="Pages of the table">
      <Button disabled={page === 1} onClick={() => go(null, 1)}>
        First
      </Button>
      <Button disabled={page === 1} onClick={() => history.back()}>
        Back
      </Button>
      <span>Page {page}</span>
      <Button disabled={next === null} onClick={() => go(next, page + 1)}>
        Next
      </Button>
    </nav>
  );
}

export function sorted<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  order: Order,
): readonly Row[] {
  const by = order && columns.find((column) => column.id === order.id)?.sort;
  if (!by) return rows;
  const sign = order.down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const a = by(one);
    const b = by(other);
    if (a === b) return 0;
    if (a === null || a === undefined) return 1; // what is unknown is last either way
    if (b === null || b === undefined) return -1;
    return a < b ? -sign : sign;
  });
}
