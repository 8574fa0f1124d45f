package watch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestResponsesAreThoseOfEtcd repeats the steps of testdata/etcd.txt, which says what etcd has sent after each.
func TestResponsesAreThoseOfEtcd(t *testing.T) {
	text, err := os.ReadFile("testdata/etcd.txt")
	if err != nil {
		t.Fatal(err)
	}
	scripts := strings.Split(string(text), "> new\n")[1:]
	if len(scripts) < 5 {
		t.Fatalf("%d scripts", len(scripts))
	}
	for name, c := range map[string]Config{"from the ring": {}, "from history": {RingBytes: 1}} {
		for i, script := range scripts {
			t.Run(fmt.Sprint(name, " ", i), func(t *testing.T) {
				within(t, c, func(r *rig) {
					r.store.bare = true
					replay(r, script)
				})
			})
		}
	}
}

// replay does the steps of a script, and compares what is sent after each.
func replay(r *rig, script string) {
	for _, part := range strings.Split("\n"+strings.TrimSpace(script), "\n> ")[1:] {
		step, sent, _ := strings.Cut(part, "\n")
		r.do(step)
		all := r.got()
		slices.SortStableFunc(all, func(a, b *pb.WatchResponse) int { return int(a.WatchId - b.WatchId) })
		var shown []string
		for _, w := range all {
			shown = append(shown, strings.ReplaceAll(show(w), "\x00", `\x00`))
		}
		if got := strings.Join(shown, "\n"); got != sent {
			r.t.Errorf("after %q sent\n%s\netcd sends\n%s", step, got, sent)
		}
	}
}

// do does a step as it is written in a script.
func (r *rig) do(step string) {
	step = strings.ReplaceAll(step, `\x00`, "\x00")
	name, rest, _ := strings.Cut(step, " ")
	number, _ := strconv.ParseInt(rest, 10, 64)
	switch name {
	case "compact":
		r.store.compact(number)
	case "cancel":
		r.cancel(number)
	case "progress":
		r.progress()
	case "create":
		r.create(parseCreate(rest))
	case "put", "del", "txn":
		var ops []op
		for o := range strings.SplitSeq(strings.TrimPrefix(step, "txn "), "; ") {
			f := strings.Fields(o)
			switch {
			case f[0] == "put":
				ops = append(ops, put(f[1], f[2]))
			case r.store.live[f[1]] != nil:
				ops = append(ops, del(f[1]))
			}
		}
		if len(ops) > 0 {
			r.publish(ops...)
		}
	default:
		r.t.Fatalf("unknown step %q", step)
	}
}

func parseCreate(text string) *pb.WatchCreateRequest {
	c := &pb.WatchCreateRequest{}
	for f := range strings.FieldsSeq(text) {
		field, value, _ := strings.Cut(f, "=")
		number, _ := strconv.ParseInt(value, 10, 64)
		switch field {
		case "key":
			c.Key = []byte(value)
		case "end":
			c.RangeEnd = []byte(value)
		case "rev":
			c.StartRevision = number
		case "id":
			c.WatchId = number
		case "prev":
			c.PrevKv = true
		case "notify":
			c.ProgressNotify = true
		case "noput":
			c.Filters = append(c.Filters, pb.WatchCreateRequest_NOPUT)
		case "nodelete":
			c.Filters = append(c.Filters, pb.WatchCreateRequest_NODELETE)
		}
	}
	return c
}
