/** What may be done with a promotion: approve, execute, reject, end its canary well or badly. */
import { api, type Schemas } from "../../api";
import { useSession } from "../../session";
import { Action } from "../../ui/action";
import { ReasonAction } from "../../ui/call-form";

type Promotion = Schemas["Promotion"];

/** Only what its state and the caller's part in it allow. */
export function PromotionActions({ promotion }: { promotion: Promotion }) {
  const me = useSession();
  const path = { params: { path: { promotion_id: promotion.id } } };
  const own = promotion.requested_by === me.account;
  const counts =
    promotion.approver_roles.includes(me.role) &&
    !own &&
    !promotion.approvals.some((each) => each.account === me.account);
  const waits = promotion.state === "pending" || promotion.state === "approved";
  return (
    <>
      {promotion.state === "pending" && counts && (
        <Action
          call="POST /api/v1/promotions/{promotion_id}/approve"
          label="Approve"
          look="main"
          confirm={{
            title: `Approve ${promotion.llm} ${promotion.version} for ${promotion.alias}?`,
            text: `It has ${promotion.approvals.length} of ${promotion.approvals_needed} approvals. The last one executes it.`,
          }}
          run={() => api.POST("/api/v1/promotions/{promotion_id}/approve", path)}
        />
      )}
      {promotion.state === "approved" && (
        <Action
          call="POST /api/v1/promotions/{promotion_id}/execute"
          label="Execute"
          look="main"
          run={() => api.POST("/api/v1/promotions/{promotion_id}/execute", path)}
        />
      )}
      {waits && (own || promotion.approver_roles.includes(me.role)) && (
        <ReasonAction
          call="POST /api/v1/promotions/{promotion_id}/reject"
          label={own ? "Take it back" : "Reject"}
          bad
          title={`End the request for ${promotion.llm} ${promotion.version}?`}
          text="The alias stays where it is. A new request may be made."
          run={(reason) =>
            api.POST("/api/v1/promotions/{promotion_id}/reject", { ...path, body: { reason } })
          }
        />
      )}
      {promotion.state === "canary" && (
        <>
          <Action
            call="POST /api/v1/promotions/{promotion_id}/advance"
            label="Move the alias now"
            confirm={{
              title: `End the canary of ${promotion.llm} ${promotion.version} well?`,
              text: `${promotion.alias} moves to it now, whatever share it has come to.`,
            }}
            run={() => api.POST("/api/v1/promotions/{promotion_id}/advance", path)}
          />
          <ReasonAction
            call="POST /api/v1/promotions/{promotion_id}/abort"
            label="Abort the canary"
            bad
            title={`End the canary of ${promotion.llm} ${promotion.version}?`}
            text="All requests go to the present version again; the alias stays."
            run={(reason) =>
              api.POST("/api/v1/promotions/{promotion_id}/abort", { ...path, body: { reason } })
            }
          />
        </>
      )}
    </>
  );
}
