package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/proto"
)

func TestSwitchoverSaysHowLongItTook(t *testing.T) {
	c := &control{status: always(paired())}
	r := invoke(t, []string{serve(t, c)}, "", "promote", "b")
	r.expect(t, exitFine, "b is the primary and serves: epoch 5, took 280 ms.\n")
	p := c.promotions()
	if len(p) != 1 || p[0].Node != "b" || p[0].Force || p[0].Confirm != "" || !strings.Contains(p[0].Operator, "@") {
		t.Errorf("asked for %v", p)
	}
}

func TestRefusedSwitchoverExplains(t *testing.T) {
	for name, promote := range map[string]func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error){
		"answer": func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error) {
			return &proto.PromoteResponse{Reason: "b is not in sync; wait until it is"}, nil
		},
		"status": func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error) {
			return nil, status.Error(codes.FailedPrecondition, "b is not in sync; wait until it is")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &control{status: always(cloning()), promote: promote})
			invoke(t, []string{s}, "", "promote", "b").expect(t, exitUnsafe, "stderr: b was not promoted, nothing has changed: b is not in sync; wait until it is")
		})
	}
}

func TestSwitchoverWithoutAnAnswerIsNotCalledAFailure(t *testing.T) {
	for name, c := range map[string]struct {
		promote func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error)
		says    string
	}{
		"silence": {func(ctx context.Context, _ *proto.PromoteRequest) (*proto.PromoteResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "b does not serve after 200ms; it may still come"},
		"connection lost": {func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error) {
			return nil, status.Error(codes.Unavailable, "connection reset")
		}, "the promotion of b was asked for and may still happen"},
		"begun": {func(context.Context, *proto.PromoteRequest) (*proto.PromoteResponse, error) {
			return nil, status.Error(codes.Aborted, "b took the role over, and does not serve yet")
		}, "b took the role over, and does not serve yet\nthe promotion of b was begun and may still happen"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &control{status: always(paired()), promote: c.promote})
			wait := "--wait=1m"
			if name == "silence" {
				wait = "--wait=200ms"
			}
			invoke(t, []string{s}, "", "promote", "b", wait).expect(t, exitFailed, "stderr: "+c.says, "stderr: shimctl status")
		})
	}
}

func TestOnlyADataNodeCanBePromoted(t *testing.T) {
	c := &control{status: always(paired())}
	s := []string{serve(t, c)}
	invoke(t, s, "", "promote", "x").expect(t, exitUsage, `stderr: there is no node "x": this cluster's data nodes are a and b`)
	invoke(t, s, "", "promote", "w").expect(t, exitUsage, "stderr: w is the witness")
	invoke(t, s, "promote x\n", "promote", "x", "--force").expect(t, exitUsage, `stderr: there is no node "x"`)
	if p := c.promotions(); len(p) != 0 {
		t.Errorf("asked for %v", p)
	}
}

// orphan is node b's control service after a was lost.
func orphan(p *proto.PreviewForceResponse) *control {
	return &control{status: always(orphaned()), preview: func(r *proto.PreviewForceRequest) (*proto.PreviewForceResponse, error) {
		if r.Node != "b" {
			return nil, status.Errorf(codes.InvalidArgument, "preview of %q asked of b", r.Node)
		}
		return p, nil
	}}
}

func losing() *proto.PreviewForceResponse {
	return &proto.PreviewForceResponse{Possible: true, LossKnown: true, LossBytes: 1_258_291, LossMs: 3400, PrimarySilentMs: 754_000, Confirm: "token-1"}
}

func TestForceShowsTheLossAndPromotesOnceTyped(t *testing.T) {
	c := orphan(losing())
	r := invoke(t, []string{serve(t, c)}, "promote b\n", "promote", "b", "--force")
	r.expect(t, exitFine, "1.2 MiB of WAL (1258291 bytes), the last 3.4 s of writes", "last heard 12 min 34 s ago", "First switch a off",
		"To go on, type: promote b", "b is the primary and serves")
	p := c.promotions()
	if len(p) != 1 || !p[0].Force || p[0].Confirm != "token-1" || p[0].Node != "b" {
		t.Errorf("asked for %v", p)
	}
	if strings.Index(r.stdout, "1.2 MiB") > strings.Index(r.stdout, "type: promote b") {
		t.Error("the loss is shown after the question")
	}
}

func TestForceNeedsTheExactPhrase(t *testing.T) {
	for name, stdin := range map[string]string{
		"nothing": "", "yes": "yes\n", "another node": "promote a\n", "capitals": "Promote B\n", "empty line": "\npromote b\n",
		"more": "promote b now\n", "endless": strings.Repeat("promote b ", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			c := orphan(losing())
			invoke(t, []string{serve(t, c)}, stdin, "promote", "b", "--force").expect(t, exitFailed, "stderr: nothing has changed")
			if p := c.promotions(); len(p) != 0 {
				t.Errorf("asked for %v", p)
			}
		})
	}
}

func TestForceOnATerminal(t *testing.T) {
	for answer, code := range map[string]int{"promote b": exitFine, "no": exitFailed} {
		t.Run(answer, func(t *testing.T) {
			c := orphan(losing())
			term := openTerminal(t)
			var errs syncBuffer
			done := make(chan int, 1)
			go func() {
				done <- run(t.Context(), withSockets([]string{serve(t, c)}, []string{"promote", "b", "--force"}), term.tty, term.tty, &errs)
			}()
			waitFor(t, "the question", func() bool { return strings.Contains(term.shown(), "To go on, type: promote b") })
			term.enter(t, answer)
			select {
			case got := <-done:
				if got != code || (len(c.promotions()) == 1) != (code == exitFine) {
					t.Errorf("exit code %d, asked for %v; %s", got, c.promotions(), errs.String())
				}
			case <-time.After(10 * time.Second):
				t.Fatal("does not end")
			}
		})
	}
}

func TestInterruptWhileAskedChangesNothing(t *testing.T) {
	c := orphan(losing())
	term := openTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	var errs syncBuffer
	done := make(chan int, 1)
	path := serve(t, c)
	go func() {
		done <- run(ctx, withSockets([]string{path}, []string{"promote", "b", "--force"}), term.tty, term.tty, &errs)
	}()
	waitFor(t, "the question", func() bool { return strings.Contains(term.shown(), "To go on") })
	cancel()
	if code := <-done; code != exitFailed || !strings.Contains(errs.String(), "nothing has changed") || len(c.promotions()) != 0 {
		t.Errorf("exit code %d, asked for %v; %s", code, c.promotions(), errs.String())
	}
	term.enter(t, "") // lets the pending read end
}

func TestForceAsksTheTargetItself(t *testing.T) {
	c := orphan(losing())
	other := serve(t, &control{status: always(paired())})
	invoke(t, []string{other}, "promote b\n", "promote", "b", "--force").expect(t, exitFailed,
		"stderr: this is a: a forced promotion must be asked of b itself")
	invoke(t, []string{other, serve(t, c)}, "promote b\n", "promote", "b", "--force").expect(t, exitFine)
	if len(c.promotions()) != 1 {
		t.Errorf("asked for %v", c.promotions())
	}
}

func TestForceRefusedByTheNode(t *testing.T) {
	c := orphan(&proto.PreviewForceResponse{Reason: "a still answers: use shimctl promote b"})
	r := invoke(t, []string{serve(t, c)}, "promote b\n", "promote", "b", "--force")
	r.expect(t, exitUnsafe, "stderr: a still answers: use shimctl promote b")
	if strings.Contains(r.stdout, "type:") {
		t.Error("asked for a confirmation of what can't be done")
	}
}

func TestPreviewSaysWhatIsNotKnown(t *testing.T) {
	for name, c := range map[string]struct {
		p    *proto.PreviewForceResponse
		want []string
	}{
		"not known": {&proto.PreviewForceResponse{Possible: true}, []string{"Lost: NOT KNOWN", "has not been heard"}},
		"nothing":   {&proto.PreviewForceResponse{Possible: true, LossKnown: true, PrimarySilentMs: 2500}, []string{"Lost: nothing that is known of", "2.5 s ago", "after that would be lost"}},
		"no time":   {&proto.PreviewForceResponse{Possible: true, LossKnown: true, LossBytes: 100}, []string{"100 B of WAL (100 bytes) that a is known to have written"}},
		"note":      {&proto.PreviewForceResponse{Possible: true, Reason: "b was cloned an hour ago"}, []string{"Note: b was cloned an hour ago"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := renderPreview(orphaned(), "b", c.p)
			for _, want := range append(c.want, "First switch a off") {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in:\n%s", want, text)
				}
			}
		})
	}
}
