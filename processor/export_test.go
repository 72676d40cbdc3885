package processor

import "airgate/accounting"

// Usual is what p has learned.
func (p *Processor) Usual() *accounting.Usual { return &p.usual }
