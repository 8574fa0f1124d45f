package lab

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
	"kineshim/proto"
)

// event is something that happened to the cluster, or that it did.
type event struct {
	at   time.Time
	text string
}

// sight is what the data nodes said at one moment.
type sight struct {
	at      time.Time
	primary string // whose gate is open; "": nobody's
	epoch   uint64
	mode    string
}

// timeline is the story of one row. It is safe for concurrent use.
type timeline struct {
	began time.Time
	// live, if not nil, is told each event at once; none is kept then.
	live io.Writer
	// vips, if not nil, is told of the gates, and says where the virtual addresses are.
	vips *vipWatch

	mu     sync.Mutex // guards what follows
	events []event
	sights []sight
	last   map[string]string // what each node said last, in words
	open   map[string]bool
	epoch  uint64
	mode   string
}

// sampleEvery is the pace at which the nodes are asked.
const sampleEvery = 50 * time.Millisecond

func newTimeline() *timeline {
	return &timeline{began: time.Now(), last: map[string]string{}, open: map[string]bool{}}
}

func (l *timeline) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(time.Now(), fmt.Sprintf(format, args...))
}

// add takes in an event. l.mu is held.
func (l *timeline) add(at time.Time, text string) {
	if l.live != nil {
		fmt.Fprintf(l.live, "%9.2f | %s\n", at.Sub(l.began).Seconds(), text)
		return
	}
	l.events = append(l.events, event{at, text})
}

// sample asks a node again and again until ctx ends, and notes what changes.
func (l *timeline) sample(ctx context.Context, c *cluster.Cluster, node string) {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for ctx.Err() == nil {
		asked := time.Now()
		s, err := c.Status(ctx, node)
		if ctx.Err() == nil {
			l.saw(node, s, err)
			if l.vips != nil && err == nil {
				l.vips.gate(node, asked, time.Now(), cluster.Self(s).GetGateOpen())
			}
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

// saw takes in what a node answered.
func (l *timeline) saw(node string, s *proto.StatusResponse, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	words := "does not answer"
	l.open[node] = false
	if err == nil {
		st := cluster.Self(s)
		l.open[node] = st.GetGateOpen()
		if l.open[node] || s.GetEpoch() > l.epoch {
			l.epoch, l.mode = s.GetEpoch(), s.GetMode()
		}
		words = describe(s, st)
	}
	now := time.Now()
	if words != l.last[node] {
		l.last[node] = words
		l.add(now, node+": "+words)
	}
	if l.live != nil {
		return
	}
	x := sight{at: now, epoch: l.epoch, mode: l.mode}
	for _, n := range cluster.DataNodes {
		if l.open[n] {
			x.primary = n
		}
	}
	if n := len(l.sights); n == 0 || l.sights[n-1] != (sight{l.sights[n-1].at, x.primary, x.epoch, x.mode}) {
		l.sights = append(l.sights, x)
	}
}

// describe is what a node says, without what changes all the time.
func describe(s *proto.StatusResponse, st *proto.NodeState) string {
	role := st.GetRole()
	if role == "standby" && st.GetStreaming() {
		role = "standby, streams"
	}
	if st.GetGateOpen() {
		return fmt.Sprintf("serves epoch %d, %s (PostgreSQL %s)", s.GetEpoch(), s.GetMode(), role)
	}
	return fmt.Sprintf("epoch %d of %s, %s; does not serve: %s (PostgreSQL %s)", s.GetEpoch(), cmp.Or(s.GetPrimary(), "nobody"), s.GetMode(), st.GetGateReason(), role)
}

// at is who served at a moment, in which epoch and mode.
func (l *timeline) at(t time.Time) sight {
	x := sight{}
	for _, s := range l.sights {
		if s.at.After(t) {
			break
		}
		x = s
	}
	return x
}

// render writes the story: a line for each second, with what clients met, and what happened in between.
func (l *timeline) render(w io.Writer, rec *ledger.Recorder, entries []ledger.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(w, "  %7s  %-7s %5s %-6s %-5s  %s\n", "second", "primary", "epoch", "mode", "VIP", "clients: answered, errors, longest wait")
	events := slices.Clone(l.events)
	end := l.began
	if n := len(events); n > 0 {
		end = events[n-1].at
	}
	seconds := bySecond(entries, rec.At(l.began))
	last := max(int(end.Sub(l.began)/time.Second), len(seconds)-1)
	for second := 0; second <= last; second++ {
		s := l.at(l.began.Add(time.Duration(second+1) * time.Second))
		epoch := ""
		if s.epoch > 0 {
			epoch = fmt.Sprint(s.epoch)
		}
		holders := "-"
		if l.vips != nil {
			holders = l.vips.holders(l.began.Add(time.Duration(second+1) * time.Second))
		}
		fmt.Fprintf(w, "  %7d  %-7s %5s %-6s %-5s  %s\n", second, cmp.Or(s.primary, "-"), epoch, s.mode, holders, clientsIn(seconds, second))
		for len(events) > 0 && int(events[0].at.Sub(l.began)/time.Second) <= second {
			fmt.Fprintf(w, "  %7.2f  | %s\n", events[0].at.Sub(l.began).Seconds(), events[0].text)
			events = events[1:]
		}
	}
}

// met is what the clients of one node met in one second.
type met struct {
	answered, errors int
	longest          time.Duration
}

// bySecond sums up the requests of each second by the node asked. A request counts in the second in which it ended.
func bySecond(entries []ledger.Entry, from int64) []map[string]*met {
	var out []map[string]*met
	for _, e := range entries {
		if e.End == 0 || e.End < from || e.Worker < 0 {
			continue
		}
		second := int((e.End - from) / int64(time.Second))
		for len(out) <= second {
			out = append(out, map[string]*met{})
		}
		m := out[second][e.Endpoint]
		if m == nil {
			m = &met{}
			out[second][e.Endpoint] = m
		}
		if e.Code == "" {
			m.answered++
		} else {
			m.errors++
		}
		m.longest = max(m.longest, time.Duration(e.End-e.Start))
	}
	return out
}

func clientsIn(seconds []map[string]*met, second int) string {
	if second >= len(seconds) {
		return ""
	}
	var out []string
	for _, node := range append(slices.Clone(cluster.DataNodes), VIP) {
		m := seconds[second][node]
		if m == nil {
			m = &met{}
		}
		out = append(out, fmt.Sprintf("%s: %4d %4d %6.3f s", node, m.answered, m.errors, m.longest.Seconds()))
	}
	return strings.Join(out, "   ")
}

// eventLog sends what the cluster package logs to the row that runs.
type eventLog struct {
	mu sync.Mutex
	to *timeline
}

func (e *eventLog) set(to *timeline) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.to = to
}

// Write takes one line of slog's text format, and shows what comes after the level.
func (e *eventLog) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.to != nil {
		if _, text, ok := strings.Cut(string(p), " msg="); ok {
			e.to.note("(%s)", strings.TrimSpace(text))
		}
	}
	return len(p), nil
}
