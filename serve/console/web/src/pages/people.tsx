/** Users, teams, roles, keys, sessions. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function People() {
  return (
    <Page title="People">
      <Empty title="Nobody is here yet" />
    </Page>
  );
}
