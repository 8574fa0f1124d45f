package native

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/kineshim/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPasswordsAreComputedAFewAtATimeAndFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ended := newPasswords(), make(chan struct{})
		slots := cap(p.slots)
		release, running, most := make(chan struct{}), make(chan int, 1), 0
		running <- 0
		results := make(chan error, 1000)
		const flood = 1000
		for range flood {
			go func() {
				results <- p.do(t.Context(), ended, func() {
					n := <-running + 1
					most = max(most, n)
					running <- n
					<-release
					running <- <-running - 1
				})
			}()
		}
		synctest.Wait()
		refused := flood - slots - waitForPassword*slots
		for range refused {
			if err := <-results; !errors.Is(err, errPasswords) {
				t.Fatalf("%v", err)
			}
		}
		if len(results) > 0 {
			t.Error("more were refused than need be, or were done before their turn")
		}
		close(release)
		for range flood - refused {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if most != slots {
			t.Errorf("%d were computed at a time, %d are wanted", most, slots)
		}
		if p.waiting.Load() != 0 || len(p.slots) != 0 {
			t.Errorf("%d wait and %d are computed in the end", p.waiting.Load(), len(p.slots))
		}
	})
}

func TestWaitingForAPasswordEndsWithTheCallAndWithTheEngine(t *testing.T) {
	p := newPasswords()
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	never := func() { t.Error("computed without a turn") }
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.do(gone, nil, never); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ended := make(chan struct{})
	close(ended)
	if err := p.do(t.Context(), ended, never); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}

// Whatever computes a hash waits for its turn: else it could be had around the bound.
func TestEveryRequestWithAPasswordIsBounded(t *testing.T) {
	e := &Engine{keyspace: newKeyspace(Config{}, slog.New(slog.DiscardHandler)), passwords: newPasswords(), failed: make(chan struct{})}
	e.ctx = t.Context()
	for range cap(e.passwords.slots) {
		e.passwords.slots <- struct{}{}
	}
	e.passwords.waiting.Store(1000)
	e.access.Store(auth.New())
	for name, ask := range map[string]func() error{
		"authenticate": func() error {
			_, err := e.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "u", Password: "p"})
			return err
		},
		"add a user": func() error {
			_, err := e.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "u", Password: "p"})
			return err
		},
		"change a password": func() error {
			_, err := e.UserChangePassword(t.Context(), &pb.AuthUserChangePasswordRequest{Name: "u", Password: "p"})
			return err
		},
	} {
		if err := ask(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too many passwords") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAlarmsThatAClientMakesUpAreBoundedAndNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := &Engine{keyspace: newKeyspace(Config{}, slog.New(slog.DiscardHandler)), said: newVoice(), log: slog.New(slog.NewTextHandler(&log, nil))}
		raise := func(member uint64) error {
			_, err := e.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_NOSPACE})
			return err
		}
		for i := range maxAlarms {
			if err := raise(uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := raise(maxAlarms); !errors.Is(err, errAlarms) {
			t.Errorf("one too many: %v", err)
		}
		if err := raise(0); err != nil {
			t.Errorf("one that is raised: %v", err)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Minute) // of the bubble's
		lower := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 0, Alarm: pb.AlarmType_NOSPACE}
		if _, err := e.Alarm(t.Context(), lower); err != nil {
			t.Fatal(err)
		}
		if err := raise(0); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "unsaid=63") {
			t.Errorf("a minute later: %s", &log)
		}
	})
}
