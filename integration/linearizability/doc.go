// Package linearizability makes the primary of a cluster of real processes fail and change again and again, while clients ask both nodes and watch
// them, and checks that nobody could notice: the answers to requests are linearizable (package history), and watches keep etcd's guarantees
// (package watched). The same check run on builds with bugs made on purpose (package mutant) shows that it finds them.
//
//	LINEARIZABILITY_FAILOVERS, LINEARIZABILITY_SWITCHOVERS   how many of each; 2 and 2, or 50 and 50 if KINESHIM_LONG=1
//	LINEARIZABILITY_MUTANTS                                  names of mutants, separated by commas, or all or none; some, or all if KINESHIM_LONG=1
//	LINEARIZABILITY_SEED                                     the seed of the order of faults and of the clients' choices; random
//	LINEARIZABILITY_OUT                                      where evidence is left of a trial that found something: requests, logs, pictures; below the system's
//	                                                         temporary directory
//	KINESHIM_BIN_DIR                                         the binaries; else they are built
package linearizability
