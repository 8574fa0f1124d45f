package failover

import (
	"strings"
	"testing"
	"time"

	"kineshim/pki"
)

func TestStatusWarnsOfACertificateThatWasNotRenewed(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	for _, tc := range []struct {
		health string
		left   time.Duration
		want   string
	}{
		{"ok", 100 * day, "ok"},
		{"ok", 29 * day, "its certificate ends on "},
		{"does not stream", 29 * day, "does not stream; its certificate ends on "},
		{"silent for 3s", -day, "silent for 3s; its certificate ended on "},
	} {
		got := withCertificate(tc.health, pki.Validity{NotBefore: now.Add(tc.left - 365*day), NotAfter: now.Add(tc.left)}, now)
		if !strings.HasPrefix(got, tc.want) || tc.want == "ok" && got != "ok" {
			t.Errorf("%v left: %q", tc.left, got)
		}
	}
	if got := withCertificate("ok", pki.Validity{}, now); got != "ok" {
		t.Errorf("a certificate that was not seen: %q", got)
	}
}
