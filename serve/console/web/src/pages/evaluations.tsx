/** Evaluations: scores with their intervals, two targets compared, what judges said, drift. */
import { useMay } from "../session";
import { Tabs } from "../ui/controls";
import { Page } from "../ui/page";
import { useParam } from "../url";
import { Comparison } from "./evaluations/compare";
import { Drift } from "./evaluations/drift";
import { Judges } from "./evaluations/judge";
import { Leaderboard } from "./evaluations/leaderboard";
import { Measure } from "./evaluations/measure";

export default function Evaluations() {
  const [tab, setTab] = useParam("tab", "leaderboard");
  const mayMeasure = useMay("POST /api/v1/evaluations");
  const tabs: [string, string][] = [
    ["leaderboard", "Leaderboard"],
    ["compare", "Compare"],
    ["judge", "Judges"],
    ["drift", "Drift"],
  ];
  if (mayMeasure) tabs.push(["measure", "Measure"]);
  const chosen = tabs.some(([id]) => id === tab) ? tab : "leaderboard";
  return (
    <Page title="Evaluations">
      <Tabs label="Evaluations" tabs={tabs} chosen={chosen} choose={setTab}>
        {chosen === "leaderboard" && <Leaderboard />}
        {chosen === "compare" && <Comparison />}
        {chosen === "judge" && <Judges />}
        {chosen === "drift" && <Drift />}
        {chosen === "measure" && <Measure />}
      </Tabs>
    </Page>
  );
}
