package quota

import "time"

// Survey is what a store has of all replicas at about one time: it is for who looks
// after one that does not come back.
type Survey struct {
	Now      time.Time            // by the store's clock, as are all others
	Heard    map[string]time.Time // :: replica → when it was last counted as alive, as far as the store knows
	Holdings []Holding            // of everyone but those in the sum of Folded
}

// Holding is what one replica has of one account-window, in what the store counts in:
// multiples of Sync's Unit.
type Holding struct {
	Key Key
	Share
}
