package lab

import (
	"context"
	"time"

	"kineshim/integration/cluster"
)

// certificateLife is short enough for a row, and as short as it may be.
const certificateLife = time.Minute

// shortCertificates has the data nodes make certificates that end soon.
func shortCertificates(_ context.Context, _ string, o *cluster.Options) error {
	settings := "certificate_lifetime: " + certificateLife.String() + "\n"
	o.Extra = map[string]string{cluster.A: settings, cluster.B: settings}
	return nil
}

// certificatesExpired lets each member's certificate end in turn.
func certificatesExpired(t *Trial) {
	t.PowerOff(t.B)
	t.timeline.note("A renews its own and W's; B's ends")
	t.OnlyServes(t.A, certificateLife+10*time.Second)
	for node, says := range map[string]string{t.A: "this node's certificate was renewed", t.W: "this voter's certificate was renewed"} {
		if t.lastLine(node, says) == "" {
			t.Failf("%s does not log: %s", node, says)
		}
	}
	t.PowerOn(t.B)
	t.Armed()

	t.PowerOff(t.W)
	t.Until("A warns of W's certificate", certificateLife+serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, t.A)
		if err != nil {
			return err.Error()
		}
		return missing(s, t.W, "its certificate ended on")
	})
	t.PowerOn(t.W)
	t.timeline.note("W is not heard: its certificate has ended")
	t.OnlyServes(t.A, aWhile)
	t.Replace(t.W)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}
