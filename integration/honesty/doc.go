// Package honesty tries whether the endpoint ever says what is not true, above all while its database fails: on real PostgreSQL,
// through the etcd API, each test with a count of its tries. It holds tests only.
//
//	HONESTY_ENGINE=kine     the engine to try; native if not set. kine fails most of these tests: that they can fail.
//	HONESTY_TRIES=1000      lists during which database sessions are killed
//	HONESTY_KILLS=60        database sessions, or servers, killed under writers
//	HONESTY_CUTS=14         commits whose wait for the standby is cut short
//	HONESTY_SEQUENCES=25    random sequences of operations with restarts of the engine
//	HONESTY_SECONDS=3       for what goes on for a time
//	HONESTY_SEED            of the random choices; each test prints its own
//	HONESTY_LOG=1           what the engine logs, on standard error
package honesty
