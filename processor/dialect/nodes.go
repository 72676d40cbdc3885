package dialect

// The places of answers. skipNode is a value that no table names.
const (
	skipNode nodeID = iota

	// roots
	chatNode
	responsesEvent
	responsesBody
	messagesEvent
	messagesBody
	errorBody
	stripNode

	typeLeaf
	modelLeaf
	idLeaf
	tierLeaf
	speedLeaf
	geoLeaf
	statusLeaf
	effortLeaf
	countLeaf
	countAllLeaf

	inLeaf
	outLeaf
	cacheReadLeaf
	cacheWriteLeaf
	cacheWrite5mLeaf
	cacheWrite1hLeaf
	inAudioLeaf
	inImageLeaf
	outAudioLeaf
	outImageLeaf
	reasoningLeaf
	webSearchesLeaf
	webFetchesLeaf
	imageGenInLeaf
	imageGenInImageLeaf
	imageGenOutLeaf

	openAIUsage
	openAIInDetails
	openAIOutDetails

	chatChoices
	chatChoice
	chatDelta
	chatCalls
	chatCall
	chatFunction
	chatAudio

	responsesResponse
	responsesItem
	responsesItems
	responsesFullItem
	responsesFullItems
	responsesPart
	responsesParts
	responsesReasoning
	responsesTool
	responsesTools
	itemLeaf
	callLeaf
	toolLeaf
	toolModelLeaf
	toolUsage
	toolUsageSearch
	toolUsageImage
	toolUsageImageIn

	anthropicUsage
	anthropicCreation
	anthropicOutDetails
	anthropicServerTools
	anthropicIterations
	anthropicIteration
	iterationLeaf
	iterationModelLeaf
	anthropicMessage
	anthropicDelta
	anthropicBlockStart
	anthropicFullBlock
	anthropicFullBlocks

	errorNode
	errorDetails
	errorInner
	errorTypeLeaf
	errorCodeLeaf
	errorDetailLeaf
	errorMessageLeaf

	stripChoices
	stripChoice
	stripUsageNode

	nodeCount
)

// nodes :: nodeID → what is read there. Sources: the providers' API references
// as of 2026-10 and recorded answers.
var nodes = [nodeCount]node{ //nolint:gochecknoglobals // an immutable table
	// One table reads chat completions, completions and embeddings, chunks and
	// whole bodies: their shapes do not contradict each other.
	chatNode: {keys: []edge{
		{"id", idLeaf},
		{"model", modelLeaf},
		{"service_tier", tierLeaf},
		{"usage", openAIUsage},
		{"choices", chatChoices},
		{"error", errorNode},
		{"type", typeLeaf},
	}},
	responsesEvent: {keys: []edge{
		{"type", typeLeaf},
		{"delta", countLeaf},
		{"response", responsesResponse},
		{"item", responsesItem},
		{"error", errorNode},
		{"code", errorCodeLeaf},
		{"message", errorMessageLeaf},
	}},
	responsesBody: {keys: []edge{
		{"id", idLeaf},
		{"model", modelLeaf},
		{"status", statusLeaf},
		{"service_tier", tierLeaf},
		{"usage", openAIUsage},
		{"error", errorNode},
		{"tool_usage", toolUsage},
		{"output", responsesFullItems},
		{"reasoning", responsesReasoning},
		{"tools", responsesTools},
	}},
	messagesEvent: {keys: []edge{
		{"type", typeLeaf},
		{"message", anthropicMessage},
		{"usage", anthropicUsage},
		{"delta", anthropicDelta},
		{"content_block", anthropicBlockStart},
		{"error", errorNode},
	}},
	messagesBody: {keys: []edge{
		{"type", typeLeaf},
		{"id", idLeaf},
		{"model", modelLeaf},
		{"usage", anthropicUsage},
		{"content", anthropicFullBlocks},
		{"error", errorNode},
	}},
	errorBody: {keys: []edge{{"error", errorNode}, {"code", errorCodeLeaf}, {"message", errorMessageLeaf}}},
	stripNode: {keys: []edge{{"choices", stripChoices}, {"usage", stripUsageNode}}},

	typeLeaf:     {op: opText, text: textType},
	modelLeaf:    {op: opText, text: textModel},
	idLeaf:       {op: opText, text: textID},
	tierLeaf:     {op: opText, text: textTier},
	speedLeaf:    {op: opText, text: textSpeed},
	geoLeaf:      {op: opText, text: textGeo},
	statusLeaf:   {op: opText, text: textStatus},
	effortLeaf:   {op: opText, text: textEffort, hook: hookReasoning},
	countLeaf:    {op: opCount},
	countAllLeaf: {op: opCountAll},

	inLeaf:              {op: opNumber, slot: inTokens},
	outLeaf:             {op: opNumber, slot: outTokens},
	cacheReadLeaf:       {op: opNumber, slot: cacheRead},
	cacheWriteLeaf:      {op: opNumber, slot: cacheWrite},
	cacheWrite5mLeaf:    {op: opNumber, slot: cacheWrite5m},
	cacheWrite1hLeaf:    {op: opNumber, slot: cacheWrite1h},
	inAudioLeaf:         {op: opNumber, slot: inAudio},
	inImageLeaf:         {op: opNumber, slot: inImage},
	outAudioLeaf:        {op: opNumber, slot: outAudio},
	outImageLeaf:        {op: opNumber, slot: outImage},
	reasoningLeaf:       {op: opNumber, slot: reasoning},
	webSearchesLeaf:     {op: opNumber, slot: webSearches},
	webFetchesLeaf:      {op: opNumber, slot: webFetches},
	imageGenInLeaf:      {op: opNumber, slot: imageGenIn},
	imageGenInImageLeaf: {op: opNumber, slot: imageGenInImage},
	imageGenOutLeaf:     {op: opNumber, slot: imageGenOut},

	openAIUsage: {hook: hookUsage, keys: []edge{
		{"prompt_tokens", inLeaf},
		{"input_tokens", inLeaf},
		{"completion_tokens", outLeaf},
		{"output_tokens", outLeaf},
		{"prompt_tokens_details", openAIInDetails},
		{"input_tokens_details", openAIInDetails},
		{"completion_tokens_details", openAIOutDetails},
		{"output_tokens_details", openAIOutDetails},
	}},
	openAIInDetails: {keys: []edge{
		{"cached_tokens", cacheReadLeaf},
		{"cache_write_tokens", cacheWriteLeaf},
		{"audio_tokens", inAudioLeaf},
		{"image_tokens", inImageLeaf},
	}},
	openAIOutDetails: {keys: []edge{
		{"reasoning_tokens", reasoningLeaf}, {"audio_tokens", outAudioLeaf}, {"image_tokens", outImageLeaf},
	}},

	chatChoices: {hook: hookChoices, elem: chatChoice},
	chatChoice:  {hook: hookChoice, keys: []edge{{"delta", chatDelta}, {"message", chatDelta}, {"text", countLeaf}}},
	chatDelta: {keys: []edge{
		{"content", countAllLeaf},
		{"refusal", countLeaf},
		{"reasoning_content", countLeaf},
		{"reasoning", countLeaf},
		{"tool_calls", chatCalls},
		{"function_call", chatFunction},
		{"audio", chatAudio},
	}},
	chatCalls:    {elem: chatCall},
	chatCall:     {keys: []edge{{"id", callLeaf}, {"function", chatFunction}, {"custom", chatFunction}}},
	chatFunction: {keys: []edge{{"name", countLeaf}, {"arguments", countLeaf}, {"input", countLeaf}}},
	chatAudio:    {hook: hookAudio, keys: []edge{{"transcript", countLeaf}}},

	responsesResponse: {keys: []edge{
		{"id", idLeaf},
		{"model", modelLeaf},
		{"service_tier", tierLeaf},
		{"usage", openAIUsage},
		{"error", errorNode},
		{"tool_usage", toolUsage},
		{"output", responsesItems},
		{"reasoning", responsesReasoning},
		{"tools", responsesTools},
	}},
	responsesItem:  {hook: hookItem, keys: []edge{{"type", itemLeaf}}},
	responsesItems: {elem: responsesItem},
	responsesFullItem: {hook: hookItem, keys: []edge{
		{"type", itemLeaf},
		{"content", responsesParts},
		{"summary", responsesParts},
		{"name", countLeaf},
		{"arguments", countLeaf},
		{"input", countAllLeaf},
		{"code", countLeaf},
	}},
	responsesFullItems: {elem: responsesFullItem},
	responsesPart:      {keys: []edge{{"text", countLeaf}, {"refusal", countLeaf}, {"transcript", countLeaf}}},
	responsesParts:     {elem: responsesPart},
	responsesReasoning: {hook: hookReasoning, keys: []edge{{"effort", effortLeaf}}},
	responsesTool:      {hook: hookTool, keys: []edge{{"type", toolLeaf}, {"model", toolModelLeaf}}},
	responsesTools:     {elem: responsesTool},
	itemLeaf:           {op: opText, text: textItem},
	callLeaf:           {op: opText, text: textCall},
	toolLeaf:           {op: opText, text: textTool},
	toolModelLeaf:      {op: opText, text: textToolModel},
	toolUsage:          {keys: []edge{{"web_search", toolUsageSearch}, {"image_gen", toolUsageImage}}},
	toolUsageSearch:    {keys: []edge{{"num_requests", webSearchesLeaf}}},
	toolUsageImage: {keys: []edge{
		{"input_tokens", imageGenInLeaf}, {"output_tokens", imageGenOutLeaf}, {"input_tokens_details", toolUsageImageIn},
	}},
	toolUsageImageIn: {keys: []edge{{"image_tokens", imageGenInImageLeaf}}},

	anthropicUsage: {hook: hookUsage, keys: []edge{
		{"input_tokens", inLeaf},
		{"output_tokens", outLeaf},
		{"cache_read_input_tokens", cacheReadLeaf},
		{"cache_creation_input_tokens", cacheWriteLeaf},
		{"cache_creation", anthropicCreation},
		{"output_tokens_details", anthropicOutDetails},
		{"server_tool_use", anthropicServerTools},
		{"iterations", anthropicIterations},
		{"service_tier", tierLeaf},
		{"speed", speedLeaf},
		{"inference_geo", geoLeaf},
	}},
	anthropicCreation: {keys: []edge{
		{"ephemeral_5m_input_tokens", cacheWrite5mLeaf}, {"ephemeral_1h_input_tokens", cacheWrite1hLeaf},
	}},
	anthropicOutDetails:  {keys: []edge{{"thinking_tokens", reasoningLeaf}}},
	anthropicServerTools: {keys: []edge{{"web_search_requests", webSearchesLeaf}, {"web_fetch_requests", webFetchesLeaf}}},
	anthropicIterations:  {elem: anthropicIteration},
	anthropicIteration: {hook: hookIteration, keys: []edge{
		{"type", iterationLeaf},
		{"model", iterationModelLeaf},
		{"input_tokens", inLeaf},
		{"output_tokens", outLeaf},
		{"cache_read_input_tokens", cacheReadLeaf},
		{"cache_creation_input_tokens", cacheWriteLeaf},
		{"cache_creation", anthropicCreation},
		{"output_tokens_details", anthropicOutDetails},
	}},
	iterationLeaf:      {op: opText, text: textIteration},
	iterationModelLeaf: {op: opText, text: textIterationModel},
	anthropicMessage:   {keys: []edge{{"id", idLeaf}, {"model", modelLeaf}, {"usage", anthropicUsage}}},
	anthropicDelta: {keys: []edge{
		{"text", countLeaf}, {"thinking", countLeaf}, {"partial_json", countLeaf}, {"content", countLeaf},
	}},
	// The content of a tool's result is an array and no output; a compaction's
	// is a string and output.
	anthropicBlockStart: {keys: []edge{
		{"type", itemLeaf}, {"text", countLeaf}, {"thinking", countLeaf}, {"name", countLeaf}, {"content", countLeaf},
	}},
	anthropicFullBlock: {keys: []edge{
		{"type", itemLeaf},
		{"text", countLeaf},
		{"thinking", countLeaf},
		{"name", countLeaf},
		{"content", countLeaf},
		{"input", countAllLeaf},
	}},
	anthropicFullBlocks: {elem: anthropicFullBlock},

	errorNode: {hook: hookError, op: opText, text: textErrorMessage, keys: []edge{
		{"type", errorTypeLeaf},
		{"code", errorCodeLeaf},
		{"message", errorMessageLeaf},
		{"details", errorDetails},
		{"innererror", errorInner},
	}},
	errorDetails:     {keys: []edge{{"error_code", errorDetailLeaf}}},
	errorInner:       {keys: []edge{{"code", errorDetailLeaf}}},
	errorTypeLeaf:    {op: opText, text: textErrorType},
	errorCodeLeaf:    {op: opText, text: textErrorCode},
	errorDetailLeaf:  {op: opText, text: textErrorDetail},
	errorMessageLeaf: {op: opText, text: textErrorMessage},

	stripChoices:   {hook: hookChoices, elem: stripChoice},
	stripChoice:    {hook: hookChoice},
	stripUsageNode: {hook: hookUsage},
}
