package decide

// Disk is what a node knows of its disk and of its data's health. The zero Disk has nothing wrong, and no room to spare.
type Disk struct {
	// Low: nearly full. Roomy: far from that. Full: PostgreSQL may end at any moment for want of room.
	Low, Roomy, Full bool
	// Failing: it takes no writes.
	Failing bool
	// Damaged: PostgreSQL has found pages with a wrong checksum since the data were made.
	Damaged bool
}

// unfit says why a node with this disk must not take over, though its data may be whole; "" if it may. A full disk is no reason: its node
// answers reads, and refuses writes.
func (d Disk) unfit() string {
	switch {
	case d.Failing:
		return "its disk takes no writes"
	case d.Damaged:
		return "its data are damaged"
	}
	return ""
}

// mayNotGate says why a standby with this disk must not be what commits wait for; "" if it may.
func (d Disk) mayNotGate() string {
	if d.Full {
		return "its disk is full"
	}
	return d.unfit()
}

// switchBecause says why this primary, which is well enough to do it without losing a request, is to hand its role over; "" if it need not.
func (in *Input) switchBecause() string {
	l, p := &in.Local, &in.Peer
	if !in.serves() || in.Record.Paused || in.Wish.Stopping || !in.CanHandOver() {
		return ""
	}
	switch {
	case l.Disk.Damaged:
		return "PostgreSQL has found damaged pages here, and the standby has none"
	case l.Disk.Low && p.Disk.Roomy:
		return "the disk here is nearly full, and the standby's is not"
	}
	return ""
}
