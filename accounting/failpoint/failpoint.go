// Package failpoint names the places at which a test kills this process, to
// see what the next one makes of what is left. A place costs nothing in a
// binary that was built without the tag failpoint: Hit is empty and inlined.
//
// With the tag, AIRGATE_FAILPOINT=name:n kills the process, as kill -9 does, as
// it comes to the place name for the nth time. AIRGATE_SEGMENT_BYTES makes the
// journal's segments so small that a short life comes to the places where one
// ends.
package failpoint
