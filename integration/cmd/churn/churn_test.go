package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestVerdictIsOnGrowthAfterTheBeginning(t *testing.T) {
	for name, c := range map[string]struct {
		sizes []int64 // one each minute
		bad   string
	}{
		"flat":                  {sizes: []int64{10, 80, 100, 100, 100, 114}},
		"grows at last":         {sizes: []int64{10, 80, 100, 100, 100, 116}, bad: "the table grows"},
		"grows in the middle":   {sizes: []int64{10, 80, 100, 100, 116, 100}, bad: "the table grows"},
		"large before its time": {sizes: []int64{10, 80, 100, 200, 100, 100}},
		"ended early":           {sizes: []int64{10, 80}, bad: "too few samples for a verdict"},
	} {
		t.Run(name, func(t *testing.T) {
			v := verdict{settle: 2 * time.Minute, half: 4 * time.Minute}
			for minute, size := range c.sizes {
				v.take(time.Duration(minute)*time.Minute, size)
			}
			var out bytes.Buffer
			switch err := v.say(&out); {
			case c.bad == "" && err != nil:
				t.Error(err)
			case c.bad != "" && (err == nil || err.Error() != c.bad):
				t.Errorf("%v, not %q", err, c.bad)
			}
		})
	}
}

func TestShortRunComesToAVerdict(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	var out bytes.Buffer
	err := run(t.Context(), strings.Fields("--revisions 5000 --keys 1000 --for 3s --sample-every 300ms --compact-every 500ms --rate 100"), &out)
	if err != nil && err.Error() != "the table grows" { // three seconds are not enough to be flat
		t.Fatal(err, out.String())
	}
	if !strings.Contains(out.String(), "verdict: ") || strings.Contains(out.String(), "first error") {
		t.Error(out.String())
	}
}
