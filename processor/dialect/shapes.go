package dialect

// The shapes of requests. noShape is an object none of whose keys are read.
const (
	noShape shapeID = iota

	chatTop
	responsesTop
	completionsTop
	embeddingsTop
	streamOptions
	openAIItem
	openAIImage
	openAIMedia
	openAIFile
	openAIAudio
	openAIStored
	openAITool
	openAIContainer
	openAIEdit
	openAICache
	openAIReasoning

	messagesTop
	countTop
	anthropicBlock
	anthropicSource
	anthropicTool
	anthropicFallback
	anthropicAddition
	anthropicThinking
	anthropicContainer
	anthropicSkill
	anthropicContext
	anthropicEdit
	cacheControl

	shapeCount
)

// shapes :: shapeID → what is read of an object. Sources: the providers' API
// references as of 2026-10.
var shapes = [shapeCount]shape{ //nolint:gochecknoglobals // an immutable table
	chatTop: {fields: []field{
		{"model", actModel, noShape},
		{"stream", actStream, noShape},
		{"stream_options", actStreamOptions, streamOptions},
		{"max_completion_tokens", actOwnCap, noShape},
		{"max_tokens", actCap, noShape},
		{"n", actChoices, noShape},
		{"messages", actNone, openAIItem},
		{"tools", actTools, openAITool},
		{"functions", actTools, noShape},
		{"web_search_options", actSearch, noShape},
		{"service_tier", actTier, noShape},
		{"store", actStore, noShape},
		{"prediction", actPrediction, noShape},
		{"modalities", actModalities, noShape},
		{"audio", actAudio, noShape},
		{"prompt_cache_options", actNone, openAICache},
		{"prompt_cache_retention", actRetention, noShape},
	}},
	responsesTop: {fields: []field{
		{"model", actModel, noShape},
		{"stream", actStream, noShape},
		{"max_output_tokens", actOwnCap, noShape},
		{"max_tool_calls", actMaxCalls, noShape},
		{"input", actNone, openAIItem},
		{"instructions", actNone, openAIItem},
		{"tools", actTools, openAITool},
		{"service_tier", actTier, noShape},
		{"previous_response_id", actStored, noShape},
		{"conversation", actStored, noShape},
		{"prompt", actStored, noShape},
		{"background", actBackground, noShape},
		{"store", actStore, noShape},
		{"context_management", actNone, openAIEdit},
		{"modalities", actModalities, noShape},
		{"audio", actAudio, noShape},
		{"prompt_cache_options", actNone, openAICache},
		{"prompt_cache_retention", actRetention, noShape},
		{"reasoning", actNone, openAIReasoning},
	}},
	completionsTop: {fields: []field{
		{"model", actModel, noShape},
		{"stream", actStream, noShape},
		{"stream_options", actStreamOptions, streamOptions},
		{"max_tokens", actOwnCap, noShape},
		{"n", actChoices, noShape},
		{"best_of", actChoices, noShape},
		{"prompt", actPrompts, noShape},
		{"service_tier", actTier, noShape},
	}},
	embeddingsTop: {fields: []field{
		{"model", actModel, noShape},
		{"input", actPrompts, openAIItem},
	}},
	streamOptions: {fields: []field{{"include_usage", actIncludeUsage, noShape}}},

	// One shape serves messages, content parts and input items: they nest in
	// each other, and a union misses nothing that a more exact table would see.
	openAIItem: {close: closeItem, fields: []field{
		{"type", actType, noShape},
		{"role", actRole, noShape},
		{"id", actID, noShape},
		{"content", actNone, openAIItem},
		{"output", actNone, openAIItem},
		{"image_url", actImage, openAIImage},
		{"video_url", actURL, openAIMedia},
		{"audio_url", actURL, openAIMedia},
		{"file", actNone, openAIFile},
		{"file_id", actStored, noShape},
		{"file_url", actURL, noShape},
		{"file_data", actFile, noShape},
		{"audio", actNone, openAIStored},
		{"container_id", actStored, noShape},
		{"result", actResult, noShape},
		{"tools", actToolList, openAITool}, // tool_search_output loads tools
		{"cache_control", actCache, cacheControl},
	}},
	openAIImage: {fields: []field{{"url", actImage, noShape}}},
	openAIMedia: {fields: []field{{"url", actURL, noShape}}},
	openAIFile: {fields: []field{
		{"file_id", actStored, noShape},
		{"file_data", actFile, noShape},
		{"file_url", actURL, noShape},
	}},
	openAIStored: {fields: []field{{"id", actStored, noShape}}},
	openAITool: {close: closeOpenAITool, fields: []field{
		{"type", actType, noShape},
		{"execution", actExecution, noShape},
		{"tools", actToolList, openAITool}, // namespace
		{"vector_store_ids", actStoredList, noShape},
		{"container", actStored, openAIContainer},
		{"environment", actNone, openAIContainer},
		{"input_image_mask", actNone, openAIItem},
		{"model", actToolModel, noShape},
		{"cache_control", actCache, cacheControl},
	}},
	openAIContainer: {fields: []field{
		{"type", actType, noShape},
		{"container_id", actStored, noShape},
		{"file_ids", actStoredList, noShape},
		{"skills", actStoredList, noShape},
	}},
	openAIEdit:      {close: closeEdit, fields: []field{{"type", actType, noShape}}},
	openAICache:     {fields: []field{{"ttl", actLifetime, noShape}}},
	openAIReasoning: {fields: []field{{"mode", actReasoning, noShape}}},

	messagesTop: {fields: []field{
		{"model", actModel, noShape},
		{"stream", actStream, noShape},
		{"max_tokens", actOwnCap, noShape},
		{"thinking", actNone, anthropicThinking},
		{"messages", actNone, anthropicBlock},
		{"system", actNone, anthropicBlock},
		{"tools", actTools, anthropicTool},
		{"mcp_servers", actMCP, noShape},
		{"container", actStored, anthropicContainer},
		{"context_management", actNone, anthropicContext},
		{"service_tier", actTier, noShape},
		{"speed", actSpeed, noShape},
		{"thread", actStored, noShape},
		{"fallbacks", actMCP, anthropicFallback}, // other models, with caps of their own
		{"cache_control", actCache, cacheControl},
	}},
	anthropicFallback: {fields: []field{{"model", actToolModel, noShape}}},
	anthropicAddition: {fields: []field{{"definition", actNone, anthropicTool}}},
	countTop: {fields: []field{
		{"model", actModel, noShape},
		{"thinking", actNone, anthropicThinking},
		{"messages", actNone, anthropicBlock},
		{"system", actNone, anthropicBlock},
		{"tools", actTools, anthropicTool},
		{"mcp_servers", actMCP, noShape},
		{"context_management", actNone, anthropicContext},
		{"cache_control", actCache, cacheControl},
	}},
	// Messages, system blocks, content blocks and what nests in them.
	anthropicBlock: {fields: []field{
		{"type", actType, noShape},
		{"content", actNone, anthropicBlock},
		{"tool", actNone, anthropicAddition}, // tool_addition: a tool defined on the way
		{"source", actNone, anthropicSource},
		{"file_id", actStored, noShape}, // container_upload, files that a tool wrote
		{"cache_control", actCache, cacheControl},
	}},
	anthropicSource: {close: closeSource, fields: []field{
		{"type", actType, noShape},
		{"media_type", actMediaType, noShape},
		{"data", actData, noShape},
		{"url", actURL, noShape},
		{"file_id", actStored, noShape},
		{"content", actNone, anthropicBlock},
	}},
	anthropicTool: {close: closeAnthropicTool, fields: []field{
		{"type", actType, noShape},
		{"max_uses", actMaxUses, noShape},
		{"model", actToolModel, noShape},
		{"cache_control", actCache, cacheControl},
	}},
	anthropicThinking: {fields: []field{{"budget_tokens", actThinking, noShape}, {"type", actThinks, noShape}}},
	anthropicContainer: {fields: []field{
		{"id", actStored, noShape},
		{"skills", actNone, anthropicSkill},
	}},
	anthropicSkill:   {close: closeSkill, fields: []field{{"type", actType, noShape}}},
	anthropicContext: {fields: []field{{"edits", actNone, anthropicEdit}}},
	anthropicEdit:    {close: closeEdit, fields: []field{{"type", actType, noShape}}},
	cacheControl:     {fields: []field{{"ttl", actTTL, noShape}}},
}
