/** One promotion: the decision with the rules that stand against it, approvals, its canary, and what may be done. */
import { useState } from "react";
import { Link } from "wouter";
import { $api, api, type Schemas } from "../../api";
import { DASH, num, when } from "../../fmt";
import { Action } from "../../ui/action";
import { Facts, Pre, StateMark } from "../../ui/controls";
import { Page, Panel } from "../../ui/page";
import { Empty, Loaded, Notice } from "../../ui/state";
import { Json } from "../job";
import { PromotionActions } from "./actions";
import { CanaryPanel } from "./canary";

type Promotion = Schemas["Promotion"];

export function PromotionDetail({ id }: { id: string }) {
  const query = $api.useQuery("get", "/api/v1/promotions/{promotion_id}", {
    params: { path: { promotion_id: id } },
  });
  const found = query.data;
  return (
    <Page
      title={found ? `${found.llm} ${found.version} to ${found.alias}` : "Promotion"}
      actions={found && <PromotionActions promotion={found} />}
    >
      <Loaded query={query} what="this promotion">
        {(promotion) => (
          <>
            <Facts
              of={[
                ["State", <StateMark key="state" state={promotion.state} />],
                [
                  "Version",
                  <Link key="version" href={`/registry/${promotion.llm}/${promotion.version}`}>
                    {promotion.llm} {promotion.version}
                  </Link>,
                ],
                ["Kind", promotion.rollback ? "roll back" : "promotion"],
                ["Asked by", promotion.requested_by],
                ["Created (UTC)", when(promotion.created_at, true)],
                ["Ends unanswered", when(promotion.expires_at)],
                [
                  "Closed",
                  promotion.closed_at ? `${when(promotion.closed_at)} by ${promotion.closed_by}` : DASH,
                ],
              ]}
            />
            {promotion.note && <Notice>{promotion.note}</Notice>}
            {promotion.canary && <CanaryPanel canary={promotion.canary} />}
            <Decision promotion={promotion} />
            <Approvals promotion={promotion} />
            <Json title="What the policy was told" value={promotion.input} />
          </>
        )}
      </Loaded>
      <p className="small">
        <Link href="/promotions">All promotions</Link>
      </p>
    </Page>
  );
}

function Decision({ promotion }: { promotion: Promotion }) {
  const path = { params: { path: { promotion_id: promotion.id } } };
  const query = $api.useQuery("get", "/api/v1/promotions/{promotion_id}/explanation", path);
  const [replayed, setReplayed] = useState<Schemas["Replay"] | null>(null);
  return (
    <Panel
      title="Decision"
      actions={
        <Action
          call="GET /api/v1/promotions/{promotion_id}/replay"
          label="Decide again"
          run={async () =>
            setReplayed((await api.GET("/api/v1/promotions/{promotion_id}/replay", path)).data ?? null)
          }
        />
      }
    >
      <Notice kind={promotion.allowed ? "ok" : "bad"}>
        {promotion.allowed ? "The policy allows it." : "The policy refuses it."}
      </Notice>
      {replayed && (
        <Notice kind={replayed.same ? "ok" : "bad"}>
          {replayed.same
            ? "Made again from what was stored, it is the same."
            : `Made again from what was stored, it is another: ${replayed.reasons.join("; ") || "allowed"}.`}
        </Notice>
      )}
      <Loaded query={query} what="the rules behind it">
        {(told) => (
          <>
            <p className="small">
              Policy {told.policy}, rules <code>{promotion.bundle_digest.slice(0, 12)}</code>, input{" "}
              <code>{promotion.input_digest.slice(0, 12)}</code>
            </p>
            {told.findings.map((each) => (
              <div key={`${each.rule} ${each.sentence}`} className="block block-bad">
                <p>
                  <b>✕ {each.rule}:</b> {each.sentence}
                </p>
                <Pre label={`Rule ${each.rule}`}>{each.source}</Pre>
                <Pre label={`What ${each.rule} looked at`}>{JSON.stringify(each.looked_at, null, 1)}</Pre>
              </div>
            ))}
          </>
        )}
      </Loaded>
    </Panel>
  );
}

function Approvals({ promotion }: { promotion: Promotion }) {
  if (promotion.approvals_needed === 0) return null;
  return (
    <Panel title={`Approvals: ${num(promotion.approvals.length)} of ${num(promotion.approvals_needed)}`}>
      <p className="small">Those of {promotion.approver_roles.join(", ")} count, and not the asker's own.</p>
      {promotion.approvals.length === 0 ? (
        <Empty title="Nobody has approved it yet" />
      ) : (
        <ul>
          {promotion.approvals.map((each) => (
            <li key={each.account}>
              ✓ {each.account} ({each.role}) <span className="mono">{when(each.created_at)}</span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}
