package vip

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"kineshim/quiet"
)

const (
	// probeAgain and probeFor: two questions, and an answer within 120 ms of the first. RFC 5227 takes seconds, which is for hosts that
	// choose an address; this one is chosen by an operator, and clients are waiting. Hosts on the same segment answer in a millisecond.
	probeAgain, probeFor = 50 * time.Millisecond, 120 * time.Millisecond
	// retryEvery is the pause before an address that could not be taken is tried again.
	retryEvery = time.Second
	// watchEvery is how often a holder asks whether somebody else claims its address too.
	watchEvery = 5 * time.Second
	// claimLasts is how long a claim that is not repeated counts.
	claimLasts = 2*watchEvery + time.Second
	// briefly is for how long an address that this node has left may be taken again unasked: a lapse of the role.
	briefly = time.Second
	// reopenEvery is the pause before listening is tried again on a link that is down.
	reopenEvery = 200 * time.Millisecond
	// contestEvery bounds how often the neighbours are told again because the other data node's kernel has answered.
	contestEvery = 200 * time.Millisecond
	// idleEvery is how often a node without the role looks where the address would go, that none was left behind, and who has it: so it
	// need not ask when clients are waiting.
	idleEvery = 2 * time.Second
)

// announceAt is when the neighbours are told, after an address was taken or a link came back: again while the old holder's kernel may
// still answer for it (leaseFor and a second of its timer), and once after that. From then on every announceEvery, for those that were away.
var announceAt = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}

const announceEvery = 30 * time.Second

// keeper holds one address or does without. All its fields but status belong to the goroutine that calls step.
type keeper struct {
	vip      VIP
	role     Role
	host     Host
	peerMACs func() []string
	cut      func()
	hear     func(Claim)
	hook     *hook
	log      *slog.Logger

	serving bool // the role, when it was last looked at
	place   Place
	placed  bool // place is known
	segment Segment
	up      bool // the interface, as far as heard

	held      bool
	putAt     time.Time // of the last renewal
	leftAt    time.Time
	probing   bool
	probedAt  time.Time // the first probe of the present round; while held, the last one
	probes    int
	notUntil  time.Time // for what has failed
	announced int       // how many of announceAt are done
	since     time.Time // since when announceAt counts
	saidAt    time.Time // of the last announcement
	muteUntil time.Time // after an announcement or a probe that could not be sent
	openedAt  time.Time // of the segment
	lookedAt  time.Time // idle
	askedAt   time.Time // of the last probe while idle

	foreign   string // the MAC of who claims the address; "" nobody
	foreignAt time.Time
	peerAt    time.Time // when the other data node last answered for it

	said *quiet.Repeats // of what others on the segment can bring about

	mu     sync.Mutex // guards status
	status Status
}

// step brings the address to where the role says, as far as can be done now, and returns when to look again. It does not wait.
func (k *keeper) step(now time.Time) time.Duration {
	epoch, yes := k.role.Holds()
	if yes != k.serving {
		k.serving = yes
		k.hook.want(yes, epoch, k.place.Interface)
		k.notUntil, k.probing = time.Time{}, false
	}
	if k.foreign != "" && now.Sub(k.foreignAt) > claimLasts {
		if line := k.said.Happened(now, "unclaimed", k.foreign); line.Say {
			k.log.Info("nobody else claims the virtual address any more", "mac", k.foreign, "unsaid", line.Unsaid)
		}
		k.foreign = ""
	}
	next := lookEvery
	switch {
	case k.vip.HookOnly:
		k.report("")
		return lookEvery
	case !yes && k.held:
		k.release(now)
	case !yes:
		k.idle(now)
	case now.Before(k.notUntil):
	case k.held:
		next = k.hold(now)
	default:
		next = k.take(now)
	}
	return max(time.Millisecond, min(next, lookEvery))
}

// release takes the address away at once: first the connections, which can still be told so, then the address.
func (k *keeper) release(now time.Time) {
	k.cut()
	if err := k.host.Remove(k.place); err != nil {
		k.fail(now, fmt.Errorf("%w; the kernel removes it within %v", err, leaseFor+time.Second))
		return // held still: tried again
	}
	k.cut() // what was accepted meanwhile
	k.held, k.leftAt = false, now
	k.log.Info("the virtual address is gone from this node", "interface", k.place.Interface)
	k.report("")
}

// idle keeps ready for the role, and takes away what an earlier process has left.
func (k *keeper) idle(now time.Time) {
	if !k.lookedAt.IsZero() && now.Sub(k.lookedAt) < idleEvery {
		return
	}
	k.lookedAt = now
	if !k.ready(now) {
		return
	}
	err := k.host.Remove(k.place)
	if err == nil {
		k.askedAt = now
		err = k.segment.Probe()
	}
	switch {
	case err != nil:
		k.askedAt = time.Time{}
		k.fail(now, err)
	case k.foreign != "":
		k.report(k.conflict())
	default:
		k.report("")
	}
}

// conflict is what an operator is told of a foreign host that has the address.
func (k *keeper) conflict() string {
	return fmt.Sprintf("another host, %s, has the address: it is not taken while that one answers. Find it (its hardware address tells) and give it another one", k.foreign)
}

// free says whether it is known without asking that no foreign host has the address: this node has just left it, or has asked shortly before, and
// could tell a foreign host from the other data node.
func (k *keeper) free(now time.Time) bool {
	asked := now.Sub(k.askedAt)
	return k.foreign == "" && (!k.leftAt.IsZero() && now.Sub(k.leftAt) < briefly || asked >= probeFor && asked <= idleEvery+probeFor && len(k.peerMACs()) > 0)
}

// ready finds the interface and listens on it.
func (k *keeper) ready(now time.Time) bool {
	all, err := k.host.Interfaces()
	if err != nil {
		return k.fail(now, err)
	}
	if err := k.host.Able(); err != nil {
		return k.fail(now, err)
	}
	p, err := findPlace(k.vip, all)
	if err != nil {
		// With the address here by another hand, this machine answers for it: the other data node must know its hardware address. Without a place for
		// it now, what is held is still to be taken away where it was put.
		if k.placed = errors.Is(err, ErrNotOurs); k.placed || !k.held {
			k.place = p
		}
		k.closeSegment()
		return k.fail(now, err)
	}
	if k.placed && (p.Index != k.place.Index || p.MAC.String() != k.place.MAC.String()) {
		k.closeSegment()
	}
	k.place, k.placed, k.up = p, true, upOf(all, p.Index)
	if k.segment != nil && !k.segment.Broken() {
		return true
	}
	if k.segment != nil && now.Sub(k.openedAt) < reopenEvery {
		return true // it broke as soon as it was opened: the link is down, and nobody hears
	}
	k.closeSegment()
	if k.segment, err = k.host.Open(p, k.hear); err != nil {
		k.segment = nil
		return k.fail(now, err)
	}
	k.openedAt = now
	return true
}

func upOf(all []Interface, index int) bool {
	for _, i := range all {
		if i.Index == index {
			return i.Up
		}
	}
	return false
}

func (k *keeper) closeSegment() {
	if k.segment != nil {
		if err := k.segment.Close(); err != nil {
			k.log.Debug("close the packet socket", "error", err)
		}
		k.segment = nil
	}
}

// take asks whether the address is free and then takes it.
func (k *keeper) take(now time.Time) time.Duration {
	if !k.probing {
		if !k.ready(now) {
			return retryEvery
		}
		if k.free(now) {
			k.probes = 0
			return k.acquire(now)
		}
		k.probing, k.probes, k.probedAt = true, 0, now
	}
	since := now.Sub(k.probedAt)
	if due := since >= time.Duration(k.probes)*probeAgain && k.probes < 2; due {
		k.probes++
		if err := k.segment.Probe(); err != nil {
			k.probing = false
			k.fail(now, err)
			return retryEvery
		}
	}
	switch {
	case k.probes < 2:
		return time.Duration(k.probes)*probeAgain - since
	case since < probeFor:
		return probeFor - since
	}
	k.probing = false
	if k.foreign != "" && !k.foreignAt.Before(k.probedAt) {
		k.notUntil = now.Add(retryEvery)
		k.report(k.conflict())
		return retryEvery
	}
	k.foreign = ""
	return k.acquire(now)
}

// acquire puts the address on the interface and tells the neighbours.
func (k *keeper) acquire(now time.Time) time.Duration {
	if !k.put(now) {
		return retryEvery
	}
	if !k.held {
		return lookEvery
	}
	k.log.Info("the virtual address is on this node", "phase", "vip", "interface", k.place.Interface, "mac", k.place.MAC.String())
	if k.probes > 0 && !k.peerAt.Before(k.probedAt) {
		k.log.Info("the other data node's kernel still answers for the virtual address, until its lease ends")
	}
	k.mu.Lock()
	k.status.Takeovers++
	k.mu.Unlock()
	k.announceAnew(now)
	return k.hold(now)
}

// put adds or renews the address. The role is looked at afterwards too: this process may have been stopped for a long time between the
// last look and now, and the address must not stay, nor be announced, then.
func (k *keeper) put(now time.Time) bool {
	if err := k.host.Put(k.place); err != nil {
		k.held = false
		return k.fail(now, err)
	}
	k.held, k.putAt = true, now
	if _, yes := k.role.Holds(); !yes {
		k.release(now)
	}
	return true
}

// hold renews, announces and watches, each when it is due.
func (k *keeper) hold(now time.Time) time.Duration {
	if age := now.Sub(k.putAt); age >= renewEvery {
		if !k.put(now) {
			k.placed = false // perhaps the interface is another one now
			return retryEvery
		}
		if !k.held {
			return lookEvery
		}
		if age > leaseFor {
			k.log.Warn("the virtual address was renewed so late that the kernel may have removed it meanwhile", "late", age-renewEvery)
			k.announceAnew(now)
		}
	}
	if k.segment == nil || k.segment.Broken() {
		if !k.ready(now) {
			return retryEvery
		}
	}
	if err := k.speak(now); err != nil {
		k.muteUntil = now.Add(retryEvery)
		k.report(err.Error())
	} else if k.held && !now.Before(k.muteUntil) {
		k.reportHeld()
	}
	return min(k.putAt.Add(renewEvery).Sub(now), max(k.nextAnnouncement().Sub(now), k.muteUntil.Sub(now)))
}

// speak tells the neighbours, or asks them whether anybody else claims the address, when either is due. A process that was stopped since
// the last look must not speak: it would lead clients away from the new holder.
func (k *keeper) speak(now time.Time) error {
	say, ask := !now.Before(k.nextAnnouncement()), now.Sub(k.probedAt) >= watchEvery
	if now.Before(k.muteUntil) || !say && !ask {
		return nil
	}
	if _, yes := k.role.Holds(); !yes {
		k.release(now)
		return nil
	}
	if say {
		if err := k.segment.Announce(); err != nil {
			return err
		}
		k.announced, k.saidAt = k.announced+1, now
	}
	if ask {
		k.probedAt = now
		return k.segment.Probe()
	}
	return nil
}

func (k *keeper) announceAnew(now time.Time) { k.announced, k.since, k.muteUntil = 0, now, time.Time{} }

func (k *keeper) nextAnnouncement() time.Time {
	if k.announced < len(announceAt) {
		return k.since.Add(announceAt[k.announced])
	}
	return k.saidAt.Add(announceEvery)
}

func (k *keeper) reportHeld() {
	problem := ""
	switch {
	case k.foreign != "":
		problem = fmt.Sprintf("another host, %s, claims the address too: clients may reach either. Find it (its hardware address tells) and give it another one", k.foreign)
	case !k.up:
		problem = k.place.Interface + " has no carrier"
	}
	k.report(problem)
}

// claimed takes in that a neighbour has said that the address is its own.
func (k *keeper) claimed(now time.Time, c Claim) {
	peers := k.peerMACs()
	switch {
	case slices.Contains(peers, c.MAC):
		// Its kernel keeps the address for the rest of its lease, which is no reason to wait. Who has heard it must hear the truth.
		k.peerAt = now
		if k.held && now.Sub(k.saidAt) >= contestEvery {
			k.announceAnew(now)
		}
		return
	case len(peers) == 0 && !k.serving:
		return // it may well be the other data node's
	case k.foreign != c.MAC:
		if line := k.said.Happened(now, "claim", c.MAC); line.Say {
			k.log.Warn("another host has the virtual address: it is neither of the data nodes", "mac", c.MAC, "held", k.held, "unsaid", line.Unsaid)
		}
		k.mu.Lock()
		k.status.Conflicts++
		k.mu.Unlock()
	}
	k.foreign, k.foreignAt = c.MAC, now
}

// linkChanged takes in an interface's new state. When a link comes back, the switch behind it may be another one, and IPv6 addresses are gone.
func (k *keeper) linkChanged(now time.Time, l Link) {
	if !k.placed {
		k.notUntil, k.lookedAt = time.Time{}, time.Time{}
		return
	}
	if l.Index != k.place.Index || l.Up == k.up {
		return
	}
	k.up = l.Up
	if !l.Up {
		k.log.Warn("the virtual address's interface has no carrier", "interface", k.place.Interface)
		return
	}
	k.log.Info("the virtual address's interface is back", "interface", k.place.Interface)
	k.notUntil, k.lookedAt = time.Time{}, time.Time{}
	if k.held {
		k.putAt = now.Add(-renewEvery)
		k.announceAnew(now)
	}
}

// fail reports what could not be done; it is tried again after retryEvery. It returns false.
func (k *keeper) fail(now time.Time, err error) bool {
	k.notUntil = now.Add(retryEvery)
	k.report(err.Error())
	return false
}

// report makes the state known, and logs a problem when it is a new one.
func (k *keeper) report(problem string) {
	hook := k.hook.state()
	k.mu.Lock()
	s := &k.status
	old := s.Problem
	s.Held, s.Problem, s.ForeignMAC = k.held, problem, k.foreign
	s.Hook, s.HookFailing, s.HookMoved, s.HookFailures = hook.outcome, hook.failing, hook.moved, hook.failures
	s.Interface, s.MAC = "", ""
	if k.placed {
		s.Interface, s.MAC = k.place.Interface, k.place.MAC.String()
	}
	k.mu.Unlock()
	switch {
	case problem != "" && problem != old:
		if line := k.said.Happened(time.Now(), "problem", problem); line.Say {
			k.log.Warn("virtual address", "problem", problem, "held", k.held, "unsaid", line.Unsaid)
		}
	case problem == "" && old != "":
		if line := k.said.Happened(time.Now(), "over", old); line.Say {
			k.log.Info("virtual address: the problem is over", "was", old, "held", k.held, "unsaid", line.Unsaid)
		}
	}
}

// end takes the address away for good.
func (k *keeper) end(now time.Time) {
	if k.held {
		k.release(now)
	}
	k.closeSegment()
}
