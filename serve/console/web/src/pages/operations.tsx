/** What keeps the service going: health, queues, dead letters, steps and faults of code analysis, configuration, audit log. */
import { useMay } from "../session";
import { Tabs } from "../ui/controls";
import { Page } from "../ui/page";
import { NoPermission } from "../ui/state";
import { useParam } from "../url";
import { Audit } from "./operations-audit";
import { Configuration } from "./operations-configuration";
import { Faults } from "./operations-faults";
import { Health } from "./operations-health";
import { DeadLetters } from "./operations-letters";
import { Queues } from "./operations-queues";
import { StepsOfCode } from "./operations-steps";

export default function Operations() {
  const [tab, setTab] = useParam("tab", "health");
  const audit = useMay("GET /api/v1/audit");
  const tabs = [
    ["health", "Health"],
    ["queues", "Queues"],
    ["letters", "Dead letters"],
    ["steps", "Prompts"],
    ["faults", "Faults on purpose"],
    ...(audit ? [["configuration", "Configuration"] as const, ["audit", "Audit log"] as const] : []),
  ] as const;
  return (
    <Page title="Operations">
      <Tabs label="What is looked after" tabs={tabs} chosen={tab} choose={setTab}>
        {tab === "queues" && <Queues />}
        {tab === "letters" && <DeadLetters />}
        {tab === "steps" && <StepsOfCode />}
        {tab === "faults" && <Faults />}
        {tab === "configuration" && (audit ? <Configuration /> : <NoPermission />)}
        {tab === "audit" && (audit ? <Audit /> : <NoPermission />)}
        {tab === "health" && <Health />}
      </Tabs>
    </Page>
  );
}
