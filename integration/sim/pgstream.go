package sim

import (
	"time"
)

const (
	// retryUpstream is the pause between a walreceiver's attempts.
	retryUpstream = 500 * ms
	// resend is how often TCP sends again what was not confirmed.
	resend = 200 * ms
	// replyEvery is an idle standby's word to its primary.
	replyEvery = time.Second
	// deaf is how long a walreceiver hears nothing before it begins anew.
	deaf = 10 * time.Second
)

// follow makes the standby receive from the other node, now and whenever it can.
func (pg *postgres) follow() {
	if !pg.follows {
		pg.follows = true
		pg.connect()
	}
}

// freeze ends that; the position does not move any more.
func (pg *postgres) freeze() {
	pg.follows = false
	pg.closeReceiver()
}

func (pg *postgres) closeReceiver() {
	c := pg.conn
	if c == nil {
		return
	}
	pg.conn, c.gone = nil, true
	// The primary hears of it if the network lets it.
	from := c.from
	pg.w.deliver(pg.id, from.p, 0, func() { from.drop(c) })
}

// closedBySender tells the standby that the walsender has ended, if the network lets it.
func (c *stream) closedBySender() {
	to := c.to
	if c.gone {
		return
	}
	to.w.deliver(c.from.id, to.p, 0, func() {
		if to.conn == c {
			to.conn, c.gone = nil, true
			to.connectSoon()
		}
	})
}

func (pg *postgres) drop(c *stream) {
	kept := pg.senders[:0]
	for _, s := range pg.senders {
		if s.conn != c {
			kept = append(kept, s)
		}
	}
	pg.senders = kept
}

// dropStale ends walsenders that have heard nothing for so long.
func (pg *postgres) dropStale(silent time.Duration) {
	now := pg.w.mono(pg.m)
	kept := pg.senders[:0]
	for _, s := range pg.senders {
		if now-s.replied > silent {
			s.conn.closedBySender()
			continue
		}
		kept = append(kept, s)
	}
	pg.senders = kept
}

func (pg *postgres) connectSoon() {
	pg.p.after(retryUpstream/2+pg.w.within(retryUpstream), pg.connect)
}

// connect is one attempt of a walreceiver.
func (pg *postgres) connect() {
	if !pg.follows || pg.conn != nil || pg.primary {
		return
	}
	w := pg.w
	up := w.kines[1-pg.id].pg
	if !w.both(pg.id, up.id) || !up.p.runs() || !up.primary || !up.slot || len(up.senders) > 0 || !pg.fits(up) {
		pg.connectSoon()
		return
	}
	c := &stream{from: up, to: pg, sent: pg.dir.tip, heard: w.mono(pg.m)}
	pg.conn = c
	w.nonce++
	up.senders = append(up.senders, &sender{pid: w.nonce, conn: c, flush: pg.depth(), replied: w.mono(up.m)})
	if !w.holds(up.dir.tip, pg.dir.tip) {
		w.violate("%s follows %s, but its WAL is another", names[pg.id], names[up.id])
		return
	}
	w.sayf(pg.id, "streams from %s", names[up.id])
	pg.dir.timeline, pg.dir.history = up.dir.timeline, up.dir.history
	pg.keepalive(c)
	up.p.after(ms, func() { up.pumpTo(c) })
}

// fits is PostgreSQL's own judgement whether a standby can stream: by timelines and positions.
func (pg *postgres) fits(up *postgres) bool {
	s, p := &pg.dir, &up.dir
	if s.system != p.system {
		return false
	}
	if s.timeline == p.timeline {
		return pg.depth() <= up.depth()
	}
	for _, f := range p.history {
		if f.timeline == s.timeline {
			return pg.depth() <= f.end
		}
	}
	return false
}

// keepalive is the standby's word once a second.
func (pg *postgres) keepalive(c *stream) {
	if pg.conn != c {
		return
	}
	if pg.w.mono(pg.m)-c.heard > deaf {
		pg.closeReceiver()
		pg.connectSoon()
		return
	}
	pg.report(c)
	pg.p.after(replyEvery, func() { pg.keepalive(c) })
}

// report tells the primary what is on the standby's disk.
func (pg *postgres) report(c *stream) {
	flushed, up := pg.dir.tip, c.from
	pg.w.deliver(pg.id, up.p, 0, func() { up.hear(c, flushed) })
}

// hear takes a standby's report.
func (pg *postgres) hear(c *stream, flushed int32) {
	for _, s := range pg.senders {
		if s.conn == c {
			s.replied = pg.w.mono(pg.m)
			s.flush = max(s.flush, pg.w.wal[flushed].depth)
			c.outstanding = c.outstanding && flushed != c.sent
			s.caught = s.caught || s.flush >= pg.depth()
			to := c.to
			pg.w.deliver(pg.id, to.p, 0, func() { c.heard = to.w.mono(to.m) })
			pg.release()
			pg.pumpTo(c)
			return
		}
	}
	c.closedBySender() // there is no such connection any more: a reset
}

// pump sends what is new to all standbys.
func (pg *postgres) pump() {
	for _, s := range pg.senders {
		pg.pumpTo(s.conn)
	}
}

// pumpTo sends what the standby lacks, and again until that is confirmed.
func (pg *postgres) pumpTo(c *stream) {
	if c.outstanding || c.gone || c.sent == pg.dir.tip || !pg.serves(c) {
		return
	}
	c.outstanding, c.sent = true, pg.dir.tip
	pg.transmit(c, c.sent)
}

func (pg *postgres) serves(c *stream) bool {
	for _, s := range pg.senders {
		if s.conn == c {
			return true
		}
	}
	return false
}

func (pg *postgres) transmit(c *stream, tip int32) {
	to := c.to
	pg.w.deliver(pg.id, to.p, 0, func() {
		if to.conn != c {
			return
		}
		c.heard = to.w.mono(to.m)
		to.p.disk(func() { // the walreceiver flushes
			if to.conn != c {
				return
			}
			if to.w.wal[tip].depth > to.depth() {
				to.w.check.received(to, tip)
				to.dir.tip = tip
			}
			to.report(c)
		})
	})
	pg.p.after(resend, func() {
		if c.outstanding && c.sent == tip && pg.serves(c) {
			pg.transmit(c, tip)
		}
	})
}
