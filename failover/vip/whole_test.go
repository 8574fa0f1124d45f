package vip

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// A list that changed while it was read is asked for again at once: an address must not wait for a second because a container was started.
func TestListsThatChangeAreReadAgain(t *testing.T) {
	other := errors.New("other")
	for name, c := range map[string]struct {
		errs  []error
		asked int
		want  error
	}{
		"at once":              {nil, 1, nil},
		"interrupted twice":    {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted}, 3, nil},
		"another error":        {[]error{other}, 1, other},
		"interrupted for ever": {slices.Repeat([]error{netlink.ErrDumpInterrupted}, 100), listAgain, netlink.ErrDumpInterrupted},
	} {
		asked := 0
		all, err := whole(func() ([]int, error) {
			asked++
			if asked <= len(c.errs) {
				return []int{1}, c.errs[asked-1]
			}
			return []int{1, 2}, nil
		})
		if !errors.Is(err, c.want) || asked != c.asked || err == nil && len(all) != 2 {
			t.Errorf("%s: %v, %v, asked %d times", name, all, err, asked)
		}
	}
}
