package main

import "errors"

// startBeside starts what a node does besides its own work, as far as it is configured: virtual addresses, the Kubernetes API's balancer, other
// applications' connections. All of it follows the agent's gate, or needs none. It is stopped in the reverse order, after the agent.
func (n *node) startBeside() (stop func() error, err error) {
	stops := []func() error{func() error { n.kernel.Close(); return nil }}
	stop = func() error {
		var errs []error
		for i := len(stops) - 1; i >= 0; i-- {
			errs = append(errs, stops[i]())
		}
		return errors.Join(errs...)
	}
	if n.vips != nil {
		stops = append(stops, n.background(n.vips.Run))
	}
	for _, start := range []func() (func() error, error){n.startBalancer, n.startApplications} {
		s, err := start()
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		stops = append(stops, s)
	}
	return stop, nil
}
