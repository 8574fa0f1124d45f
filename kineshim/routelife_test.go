package kineshim

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsForwardedLivesAsLongAsItsPrimaryMayAnswer(t *testing.T) {
	first := Route{Target: "a:1", Node: "a", Epoch: 7}
	for _, c := range []struct {
		name string
		// next are the routes that follow, each after 100 ms.
		next []Route
		// lives is for how long what was forwarded lives; 0: longer than all of that.
		lives time.Duration
	}{
		{"the same primary", []Route{first, {Why: "one exchange was lost"}, first}, 0},
		{"another epoch", []Route{{Target: "a:1", Node: "a", Epoch: 8}}, 100 * time.Millisecond},
		{"another node", []Route{{Target: "b:1", Node: "b", Epoch: 7}}, 100 * time.Millisecond},
		{"this node", []Route{{Why: "electing"}, {Local: true, Epoch: 8}}, 200 * time.Millisecond},
		{"nobody", []Route{{Why: "electing"}}, 100*time.Millisecond + routeGrace},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffline(t)
				o.router.to(first)
				begun := time.Now()
				out, cancel := o.withRoute(t.Context(), o.router.Route())
				defer cancel(nil)
				var lived time.Duration
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					<-out.Done()
					lived = time.Since(begun)
				}()
				for _, r := range c.next {
					time.Sleep(100 * time.Millisecond)
					o.router.to(r)
				}
				if c.lives == 0 {
					time.Sleep(time.Hour)
					synctest.Wait()
					if out.Err() != nil {
						t.Error("it ended")
					}
					o.router.to(Route{Local: true})
				}
				<-ended
				if c.lives != 0 && lived != c.lives || !routeEnded(out) {
					t.Errorf("lived %v, want %v", lived, c.lives)
				}
			})
		})
	}
}

func TestWhatGoesOneWaySharesALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		route := Route{Target: "a:1", Epoch: 7}
		o.router.to(route)
		first := o.routeLife(o.router.Route())
		o.router.to(route)
		if o.routeLife(o.router.Route()) != first {
			t.Error("another route to the same primary has another life")
		}
		o.router.to(Route{Target: "a:1", Epoch: 8})
		synctest.Wait()
		if next := o.routeLife(o.router.Route()); next == first || next.Err() != nil || first.Err() == nil {
			t.Error("the next epoch has no life of its own")
		}
	})
}
