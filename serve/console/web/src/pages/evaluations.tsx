/** Leaderboard, comparison, judges, drift. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Evaluations() {
  return (
    <Page title="Evaluations">
      <Empty title="No evaluation yet" />
    </Page>
  );
}
