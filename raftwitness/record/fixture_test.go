package record

import "testing"

var threeVoters = []Member{
	{Name: "a", ServerID: "a-1", Role: Data},
	{Name: "b", ServerID: "b-1", Role: Data},
	{Name: "w", ServerID: "w-1", Role: Witness},
}

func initCommand() Command {
	return Command{Kind: Init, By: "a", Node: "a", ClusterID: "c1", SystemID: 7, Members: threeVoters, AtUnixMilli: 1}
}

// apply runs commands one after the other and fails the test if one is refused. The epoch of each is filled in.
func apply(t *testing.T, r Record, commands ...Command) Record {
	t.Helper()
	for _, c := range commands {
		c.Epoch = r.Epoch
		next, err := r.Apply(c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		r = next
	}
	return r
}

// solo is a cluster whose primary a serves alone on timeline 1.
func solo(t *testing.T) Record {
	t.Helper()
	return apply(t, Record{}, initCommand(), Command{Kind: Timeline, By: "a", Timeline: 1, SwitchLSN: 0x1000})
}

// paired is a cluster whose primary a and standby b hold everything.
func paired(t *testing.T) Record {
	t.Helper()
	return apply(t, solo(t), Command{Kind: Pair, By: "a", Node: "b", Timeline: 1})
}

// promoted is a cluster in epoch 2, begun by b, whose timeline is not recorded yet.
func promoted(t *testing.T) Record {
	t.Helper()
	return apply(t, paired(t), Command{Kind: Promote, By: "b", Node: "b", Timeline: 1})
}
