package postgres

import (
	"path/filepath"
	"testing"
	"time"
)

// promotionsWithoutWAL is more than a segment may have timelines.
const promotionsWithoutWAL = 3 * timelinesOfSegment

// leftWithin is how long after a promotion a crowded segment may be written on.
const leftWithin = checkpointAfter + 15*time.Second

// Whoever fails over again and again and writes little must not fill the disk with copies of one segment.
func TestManyPromotionsLeaveFewCopiesOfASegment(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	segments := map[string]bool{}
	for epoch := range uint64(promotionsWithoutWAL) {
		a.startPrimary(ctx, epoch+1)
		eventually(t, within(t, leftWithin), "a segment that is there on few timelines", func() bool {
			present := a.value(ctx, `SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 9)`)
			segments[present] = true
			copies, err := filepath.Glob(filepath.Join(a.cfg.DataDir, "pg_wal", "????????"+present))
			check(t, "list", err)
			return len(copies) <= timelinesOfSegment
		})
		check(t, "stop", a.StopImmediate(ctx))
	}
	if len(segments) < 2 {
		t.Errorf("all promotions were in %v, so that nothing is tried", segments)
	}
	if len(segments) > promotionsWithoutWAL/timelinesOfSegment+1 {
		t.Errorf("%d promotions wrote on %d segments: each that is left costs %d MB", promotionsWithoutWAL, len(segments), walSegmentMB)
	}
}
