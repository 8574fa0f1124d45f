package ledger

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lie is a way in which the store in memory deceives its clients.
type lie string

const (
	losesWrite          lie = "loses an acknowledged write later"
	ackWithoutDoing     lie = "acknowledges a write without doing it"
	bringsBackOld       lie = "brings back an old value at its old revision"
	rewritesOld         lie = "writes an old value again at a new revision"
	losesDelete         lie = "acknowledges a delete without doing it"
	falseRefusalLook    lie = "refuses an update falsely, showing the compared revision"
	falseRefusalBlind   lie = "refuses an update falsely, showing an older revision"
	falseRefusalAbsent  lie = "refuses an update falsely, showing nothing"
	falseCreateRefusal  lie = "refuses a create of an absent key"
	doesWhatItRefuses   lie = "does what it refuses"
	truncatesList       lie = "truncates a list"
	emptyDatabase       lie = "answers reads as if it were empty"
	wiped               lie = "loses everything"
	readsStale          lie = "reads an older state"
	readsStaleAbsence   lie = "shows a key as absent that had been so before"
	reusesRevision      lie = "acknowledges with a revision already used"
	rewindsRevision     lie = "counts revisions from an older one again"
	updatesBlindly      lie = "updates without comparing"
	createsOver         lie = "creates over an existing key"
	deletesBlindly      lie = "deletes without comparing"
	damagesValue        lie = "damages a value"
	swapsKeys           lie = "stores the value under another key too"
	inventsKey          lie = "holds a key that nobody wrote"
	headerGoesBack      lie = "answers a read with an older header revision"
	twoMembers          lie = "answers as another member in the same term"
	oldTerm             lie = "answers in an older term"
	deleteAcksFalsely   lie = "acknowledges the delete of a key that is not there"
	deletesUnasked      lie = "deletes a key that nobody asked it to delete"
	ackedAtOtherRev     lie = "acknowledges a write at another revision than it stored"
	losesUnknownAfter   lie = "shows a write of unknown outcome, then loses it"
	dropsEvent          lie = "history: drops an event"
	doublesEvent        lie = "history: shows an event twice"
	swapsEvents         lie = "history: shows two events in the wrong order"
	inventsDeleteEvent  lie = "history: shows a delete that was not"
	alteredEvent        lie = "history: shows another value"
	dropsUnknownUpdates lie = "history: drops a write of unknown outcome on which another rests"
)

type version struct {
	value    string
	revision int64 // 0: absent
}

// memory is a store in memory: linearizable, unless it has a lie to tell. It tells it once, at the first request that it fits after
// lieAfter requests.
type memory struct {
	lie      lie
	lieAfter int
	// unknown is the share of writes, in percent, whose answer is lost; half of them are done, some of these late.
	unknown int

	mu     sync.Mutex
	rnd    *rand.Rand
	rev    int64
	keys   map[string]version
	past   map[string][]version
	unsure map[string]bool // nonces of puts that were done and not acknowledged
	events []Event
	served int
	told   bool
	// unanswered: the write's answer is lost, so that nothing said of it could be a lie.
	unanswered bool
	lateAll    sync.WaitGroup
}

func newMemory(seed uint64) *memory {
	return &memory{rnd: rand.New(rand.NewPCG(seed, 77)), rev: 100, keys: map[string]version{}, past: map[string][]version{}, unsure: map[string]bool{}}
}

// tell says whether the lie is to be told now.
func (m *memory) tell(l lie) bool {
	if m.lie != l || m.told || m.unanswered || m.served < m.lieAfter {
		return false
	}
	m.told = true
	return true
}

// latency is a random time on the way; with a fake clock it makes requests overlap.
func (m *memory) latency() {
	m.mu.Lock()
	d := time.Duration(1 + m.rnd.IntN(2_000_000))
	m.mu.Unlock()
	time.Sleep(d)
}

func (m *memory) header() Answer { return Answer{Revision: m.rev, Member: 7, Term: 3} }

func (m *memory) set(key string, v version) {
	m.past[key] = append(m.past[key], m.keys[key])
	m.keys[key] = v
}

// put and remove change the state honestly.
func (m *memory) put(key string, value []byte) {
	m.rev++
	m.set(key, version{string(value), m.rev})
	m.events = append(m.events, Event{Key: key, Nonce: nonceOf(value), Revision: m.rev})
}

func (m *memory) remove(key string) {
	m.rev++
	m.set(key, version{})
	m.events = append(m.events, Event{Key: key, Revision: m.rev, Deleted: true})
}

func (m *memory) Write(ctx context.Context, op Op, key string, value []byte, compared int64) (Answer, error) {
	m.latency()
	defer m.latency()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.served++
	if m.rnd.IntN(100) < m.unknown {
		return Answer{}, m.lose(op, key, value, compared)
	}
	return m.apply(op, key, value, compared), nil
}

// lose does the write now, later or never, and answers that it does not know.
func (m *memory) lose(op Op, key string, value []byte, compared int64) error {
	switch m.rnd.IntN(4) {
	case 0:
		if a := m.applyUnanswered(op, key, value, compared); a.Succeeded && op.Puts() {
			m.unsure[nonceOf(value)] = true
		}
	case 1:
		delay := time.Duration(m.rnd.IntN(30)) * time.Millisecond
		m.lateAll.Go(func() {
			time.Sleep(delay)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.applyUnanswered(op, key, value, compared)
		})
	}
	if m.rnd.IntN(2) == 0 {
		return context.DeadlineExceeded
	}
	return status.Error(codes.Unavailable, "the answer is lost")
}

func (m *memory) applyUnanswered(op Op, key string, value []byte, compared int64) Answer {
	m.unanswered = true
	defer func() { m.unanswered = false }()
	return m.apply(op, key, value, compared)
}

func (m *memory) apply(op Op, key string, value []byte, compared int64) Answer {
	now := m.keys[key]
	holds := now.revision == compared
	if a, lied := m.lieInWrite(op, key, value, compared, now, holds); lied {
		return a
	}
	if !holds {
		return m.refuse(op, key)
	}
	if op == Delete {
		m.remove(key)
	} else {
		m.put(key, value)
	}
	a := m.header()
	a.Succeeded = true
	if op == Delete {
		a.Deleted = 1
	}
	m.lieAfterWrite(op, key, &a)
	return a
}

func (m *memory) refuse(op Op, key string) Answer {
	a := m.header()
	if op != Create {
		a.Looked, a.KVs = true, m.show(key, m.keys[key])
	}
	return a
}

func (m *memory) show(key string, v version) []KV {
	if v.revision == 0 {
		return nil
	}
	return []KV{{Key: key, Value: []byte(v.value), Revision: v.revision}}
}

// lieInWrite tells the lies that take the place of the write.
func (m *memory) lieInWrite(op Op, key string, value []byte, compared int64, now version, holds bool) (Answer, bool) {
	done := func() (Answer, bool) {
		a := m.header()
		a.Succeeded = true
		if op == Delete {
			a.Deleted = 1
		}
		return a, true
	}
	switch {
	case op == Delete && holds && m.tell(losesDelete), op.Puts() && holds && m.tell(ackWithoutDoing):
		m.rev++
		return done()
	case op == Update && holds && m.tell(falseRefusalLook), op == Create && holds && m.tell(falseCreateRefusal):
		return m.refuse(op, key), true
	case op == Update && holds && m.older(key, now) != nil && m.tell(falseRefusalBlind):
		a := m.header()
		a.Looked, a.KVs = true, m.show(key, *m.older(key, now))
		return a, true
	case op == Update && holds && m.tell(falseRefusalAbsent):
		return m.header(), true
	case op == Update && holds && m.tell(doesWhatItRefuses):
		a := m.refuse(op, key)
		a.KVs = nil
		a.Looked = false
		m.put(key, value)
		return a, true
	case op == Update && !holds && now.revision != 0 && m.tell(updatesBlindly), op == Create && !holds && m.tell(createsOver):
		m.put(key, value)
		return done()
	case op == Delete && !holds && now.revision != 0 && m.tell(deletesBlindly):
		m.remove(key)
		return done()
	case op == Delete && !holds && now.revision == 0 && m.tell(deleteAcksFalsely):
		m.rev++
		return done()
	}
	return Answer{}, false
}

// older is the state before the present one, if that was a value.
func (m *memory) older(key string, now version) *version {
	past := m.past[key]
	if now.revision == 0 || len(past) == 0 || past[len(past)-1].revision == 0 {
		return nil
	}
	return &past[len(past)-1]
}

// lieAfterWrite tells the lies that follow a write that was done.
func (m *memory) lieAfterWrite(op Op, key string, a *Answer) {
	now := m.keys[key]
	past := m.past[key]
	switch {
	case m.tell(losesWrite):
		m.keys[key] = past[len(past)-1]
	case op == Update && m.older(key, now) != nil && m.tell(bringsBackOld):
		m.keys[key] = *m.older(key, now)
	case op == Update && m.older(key, now) != nil && m.tell(rewritesOld):
		m.rev++
		m.keys[key] = version{m.older(key, now).value, m.rev}
	case op.Puts() && m.tell(swapsKeys):
		m.rev++
		m.keys[key+"x"] = version{now.value, m.rev}
	case m.tell(inventsKey):
		m.rev++
		m.keys[key+"x"] = version{string(Value("never", 50)), m.rev}
	case op.Puts() && m.tell(deletesUnasked):
		m.rev++
		m.keys[key] = version{}
	case m.tell(reusesRevision):
		m.reuse(op, key, a)
	case op.Puts() && m.tell(ackedAtOtherRev):
		a.Revision--
	case m.tell(rewindsRevision):
		m.rev -= 20
	case m.tell(wiped):
		m.keys = map[string]version{}
	}
}

func (m *memory) reuse(op Op, key string, a *Answer) {
	m.rev--
	a.Revision--
	if op.Puts() {
		m.keys[key] = version{m.keys[key].value, m.rev}
	}
}

func (m *memory) Get(ctx context.Context, key string) (Answer, error) {
	m.latency()
	defer m.latency()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.served++
	a := m.header()
	now := m.keys[key]
	switch {
	case now.revision != 0 && m.tell(damagesValue):
		now.value = now.value[:len(now.value)-1] + "!"
	case m.unsure[nonceOf([]byte(now.value))] && m.tell(losesUnknownAfter):
		m.keys[key] = m.past[key][len(m.past[key])-1]
	case now.revision != 0 && m.tell(emptyDatabase):
		now = version{}
	case m.older(key, now) != nil && m.settled(now) && m.tell(readsStale):
		now = *m.older(key, now)
	case now.revision != 0 && m.settled(now) && m.absentBefore(key) && m.tell(readsStaleAbsence):
		now = version{}
	case m.tell(headerGoesBack):
		a.Revision -= 50
	case m.tell(twoMembers):
		a.Member++
	case m.tell(oldTerm):
		a.Term--
		a.Member++
	}
	a.Looked, a.KVs = true, m.show(key, now)
	return a, nil
}

// settled says that the state is older than any request under way, so that no request may be shown what was before it.
func (m *memory) settled(v version) bool { return m.rev-v.revision > 30 }

// absentBefore says that the key was deleted and created again.
func (m *memory) absentBefore(key string) bool {
	return slices.ContainsFunc(m.past[key][1:], func(v version) bool { return v.revision == 0 })
}

func (m *memory) List(ctx context.Context, prefix string, limit int64) (Answer, error) {
	m.latency()
	defer m.latency()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.served++
	a := m.header()
	a.Looked = true
	for _, key := range sortedKeys(m.keys) {
		if strings.HasPrefix(key, prefix) {
			a.KVs = append(a.KVs, m.show(key, m.keys[key])...)
		}
	}
	if len(a.KVs) > 1 && m.tell(truncatesList) {
		a.KVs = a.KVs[:len(a.KVs)-1]
	}
	return a, nil
}

// history is all events so far, with the lie if it is one of a history's.
func (m *memory) history() History {
	m.lateAll.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	events := slices.Clone(m.events)
	h := History{Name: "all", From: 100, To: m.rev}
	at := len(events) / 2
	switch m.lie {
	case dropsEvent:
		events = slices.Delete(events, at, at+1)
	case doublesEvent:
		events = slices.Insert(events, at, events[at])
	case swapsEvents:
		events[at], events[at+1] = events[at+1], events[at]
	case inventsDeleteEvent:
		for at < len(events) && events[at].Deleted {
			at++
		}
		events[at].Deleted, events[at].Nonce = true, ""
	case alteredEvent:
		for i := range events {
			if !events[i].Deleted && i >= at {
				events[i].Nonce = "other"
				break
			}
		}
	case dropsUnknownUpdates:
		at = m.unsureAndUpdated()
		if at < 0 {
			h.Events = events
			return h
		}
		events = slices.Delete(events, at, at+1)
	default:
		h.Events = events
		return h
	}
	m.told = true
	h.Events = events
	return h
}

// unsureAndUpdated is an event of a put that was not acknowledged, but replaced by one that was: so somebody had seen it.
func (m *memory) unsureAndUpdated() int {
	for i, ev := range m.events {
		if !m.unsure[ev.Nonce] {
			continue
		}
		for _, next := range m.events[i+1:] {
			if next.Key == ev.Key {
				if !next.Deleted && !m.unsure[next.Nonce] {
					return i
				}
				break
			}
		}
	}
	return -1
}
