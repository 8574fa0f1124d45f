package proto

import "fmt"

// Headline answers the two questions that matter: whether somebody serves, and whether a failover would succeed.
func (st *StatusResponse) Headline() string {
	p := st.GetPrimary()
	switch {
	case !st.GetServing() && p == "":
		return "NOBODY SERVES: this cluster has not been initialised yet."
	case !st.GetServing():
		return fmt.Sprintf("NOBODY SERVES: clients get errors. The primary is %s.", p)
	case st.GetArmed():
		return fmt.Sprintf("%s serves. Automatic failover is armed: %s takes over if %s is lost.", p, st.OtherData(p), p)
	default:
		return fmt.Sprintf("%s serves. Automatic failover is NOT ARMED: if %s is lost, nobody takes over by itself.", p, p)
	}
}

// OtherData names the data node that is not the named one.
func (st *StatusResponse) OtherData(name string) string {
	for _, n := range st.GetNodes() {
		if n.GetRole() != "witness" && n.GetName() != name {
			return n.GetName()
		}
	}
	return "the other node"
}
