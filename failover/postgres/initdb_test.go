package postgres

import "testing"

func TestANewDatabaseHasSmallWALFiles(t *testing.T) {
	ctx := testContext(t)
	d, err := newNode(t, freePort(t), 1).withData(ctx).Inspect(ctx)
	check(t, "inspect", err)
	if !d.Complete || d.WALSegmentBytes != walSegmentMB<<20 {
		t.Errorf("%+v", d)
	}
}
