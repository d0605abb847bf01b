/** The graph from data to alias. What a box leads to stands as a link, which the keyboard reaches. */
import { useMemo } from "react";
import { Link } from "wouter";
import type { Schemas } from "../../api";
import { Panel } from "../../ui/page";
import { graphOf, HEIGHT, sentenceOf, WIDTH } from "./graph";

const EDGE = 2;

export function LineageGraph({ lineage }: { lineage: Schemas["Lineage"] }) {
  const graph = useMemo(() => graphOf(lineage), [lineage]);
  return (
    <Panel title="Lineage">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section className="graph" tabIndex={0} aria-label="Lineage, from data to alias">
        <svg
          role="img"
          aria-label={sentenceOf(lineage)}
          width={graph.width + 2 * EDGE}
          height={graph.height + 2 * EDGE}
          viewBox={`${-EDGE} ${-EDGE} ${graph.width + 2 * EDGE} ${graph.height + 2 * EDGE}`}
        >
          {graph.lines.map(({ from, to }) => {
            const [x, y] = [from.x + WIDTH, from.y + HEIGHT / 2];
            const [toX, toY] = [to.x, to.y + HEIGHT / 2];
            const middle = (x + toX) / 2;
            return (
              <path key={`${from.id} ${to.id}`} d={`M${x},${y} H${middle} V${toY} H${toX}`} fill="none" />
            );
          })}
          {graph.boxes.map((box) => (
            <g key={box.id}>
              <rect x={box.x} y={box.y} width={WIDTH} height={HEIGHT} />
              <text x={box.x + 8} y={box.y + 16} className="graph-kind">
                {box.kind}
              </text>
              <text x={box.x + 8} y={box.y + 34}>
                {box.name}
              </text>
            </g>
          ))}
        </svg>
      </section>
      <ul className="actions">
        {graph.boxes
          .filter((box) => box.href)
          .map((box) => (
            <li key={box.id}>
              <Link href={box.href ?? ""}>
                {box.kind} {box.name}
              </Link>
            </li>
          ))}
      </ul>
    </Panel>
  );
}
