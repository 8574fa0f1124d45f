package main

import (
	"fmt"
	"time"

	"kineshim/raftwitness/record"
)

// showBytes is a size for people: "0 B", "1.2 MiB".
func showBytes(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= step && i < len(units)-1 {
		v /= step
		i++
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// showMillis is a duration for people, from milliseconds: "420 ms", "12.3 s", "3 min 5 s", "2 h 10 min", "4 d 3 h".
func showMillis(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// showLSN is a WAL position as PostgreSQL writes it; "-" when it is not known.
func showLSN(lsn uint64) string {
	if lsn == 0 {
		return "-"
	}
	return record.LSN(lsn).String()
}
